//! Parts of reports that many machines have alike, held once.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that may be held by several owners, and is itself in every other way: on the wire, compared,
/// hashed and shown. Changing it through one owner leaves the others theirs.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shared<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Shared<T> {
    /// Whether another owner holds the same value, not only an equal one.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Shared<str> {
    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Clone> Shared<T> {
    /// The value by itself.
    #[must_use]
    pub fn into_inner(self) -> T {
        Arc::unwrap_or_clone(self.0)
    }
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        T::default().into()
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: ?Sized> Borrow<T> for Shared<T> {
    fn borrow(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl From<&str> for Shared<str> {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Shared<str> {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Display + ?Sized> fmt::Display for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize + ?Sized> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: ?Sized> Deserialize<'de> for Shared<T>
where
    Box<T>: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::deserialize(deserializer).map(|value| Self(value.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_the_others_theirs() {
        let one: Shared<Vec<u32>> = vec![1].into();
        assert!(!one.is_shared());
        let mut other = one.clone();
        assert!(one.is_shared() && other.is_shared());
        other.push(2);
        assert_eq!((&*one, &*other), (&vec![1], &vec![1, 2]));
        assert!(!one.is_shared() && !other.is_shared());
        assert_eq!(one.clone().into_inner(), [1]);
    }

    #[test]
    fn on_the_wire_it_is_the_value() {
        let text: Shared<str> = serde_json::from_str("\"a\\nb\"").expect("a text");
        assert_eq!(&*text, "a\nb");
        assert_eq!(serde_json::to_string(&text).expect("JSON"), "\"a\\nb\"");
        let list: Option<Shared<Vec<u32>>> = serde_json::from_str("[1,2]").expect("a list");
        assert_eq!(serde_json::to_string(&list).expect("JSON"), "[1,2]");
    }
}
