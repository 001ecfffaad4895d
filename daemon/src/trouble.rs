//! What goes wrong again and again: it is said once, and once when it is over.

/// What was said last of one thing that goes wrong, if it still does.
#[derive(Debug, Default)]
pub struct Trouble(Option<String>);

impl Trouble {
    /// Goes on with these words. Whether they are others than before, and so to be said.
    pub fn is_news(&mut self, words: &str) -> bool {
        let is_news = self.0.as_deref() != Some(words);
        if is_news {
            self.0 = Some(words.to_owned());
        }
        is_news
    }

    /// It works. Whether it did not before, which is to be said.
    pub fn ends(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_said_once() {
        let mut trouble = Trouble::default();
        assert!(!trouble.ends(), "there was none");
        assert!(trouble.is_news("a"));
        assert!(!trouble.is_news("a"), "the same");
        assert!(trouble.is_news("b"), "another");
        assert!(trouble.ends());
        assert!(!trouble.ends(), "told already");
        assert!(trouble.is_news("b"), "again");
    }
}
