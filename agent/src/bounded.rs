//! Blocking work that may never end: a file of sysfs may wait for a lock that a stuck driver holds, one
//! on a mount for a server that is gone, and nobody can call that off.

use std::time::Duration;

use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// Does one piece of work at a time, each on a thread of its own.
#[derive(Debug)]
pub(crate) struct Bounded<T> {
    /// Work that was given up on and goes on.
    hanging: Option<JoinHandle<T>>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    /// It was done.
    Done(T),
    /// It, or what was begun earlier, goes on without an end.
    Hangs,
}

impl<T: Send + 'static> Bounded<T> {
    pub(crate) const fn new() -> Self {
        Self { hanging: None }
    }

    /// Does the work, unless the last one still hangs; gives up on it after the deadline.
    ///
    /// # Errors
    ///
    /// When the work panicked, which is a bug.
    pub(crate) async fn run(
        &mut self,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Outcome<T>, JoinError> {
        // What comes too late is no answer to what is asked now.
        self.hanging.take_if(|hanging| hanging.is_finished());
        if self.hanging.is_some() {
            return Ok(Outcome::Hangs);
        }
        let mut running = spawn_blocking(work);
        if let Ok(done) = timeout(deadline, &mut running).await {
            return done.map(Outcome::Done);
        }
        self.hanging = Some(running);
        Ok(Outcome::Hangs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn work_that_hangs_is_given_up_on_and_not_begun_again() {
        let mut bounded = Bounded::new();
        assert_eq!(bounded.run(LONG, || 1).await.expect("no panic"), Outcome::Done(1));
        let (release, held) = mpsc::channel::<()>();
        let hangs = move || held.recv().map_or(0, |()| 2);
        let outcome = bounded.run(SHORT, hangs).await.expect("no panic");
        assert_eq!(outcome, Outcome::Hangs);
        let begun = bounded.run(LONG, || 3).await.expect("no panic");
        assert_eq!(begun, Outcome::Hangs);
        release.send(()).expect("it waits");
        loop {
            match bounded.run(LONG, || 4).await.expect("no panic") {
                Outcome::Hangs => tokio::time::sleep(SHORT).await,
                Outcome::Done(number) => break assert_eq!(number, 4),
            }
        }
    }
}
