//! Answers that are kept: one request for all who want the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::{Fault, Reason, Timestamp};

/// An answer and when it was requested.
#[derive(Clone)]
struct Answer<T> {
    at: Timestamp,
    /// What the answer depended on.
    mark: String,
    result: Result<T, Fault>,
}

/// Whoever holds the lock requests the answer; the others wait for it.
type Slot<T> = Arc<tokio::sync::Mutex<Option<Answer<T>>>>;

/// Answers by key.
pub(super) struct Kept<T>(Mutex<HashMap<String, Slot<T>>>);

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Which answer is good enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freshness<'a> {
    /// Now, on the steady clock.
    pub(super) now: Timestamp,
    /// What the answer depends on besides its key: an answer for something else is not used.
    pub(super) mark: &'a str,
    /// A person wants to know it now.
    pub(super) asked: bool,
    /// When the answer must be complete.
    pub(super) deadline: Instant,
}

/// Who asks, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    /// A person asked for the probe.
    pub(super) asked: bool,
    /// When the answer must be complete.
    pub(super) deadline: Instant,
}

/// People press a button twice, and many integrations share an answer.
const JUST_NOW: Duration = Duration::from_secs(10);

/// A fault is not asked for again by every integration that shares it.
const FAULT_COUNTS: Duration = Duration::from_secs(30);

impl<T: Clone> Answer<T> {
    /// The answer, whose pause is over the earlier the older it is.
    fn at_age(&self, age: Duration) -> Result<T, Fault> {
        self.result.clone().map_err(|fault| Fault {
            retry_after: fault.retry_after.map(|pause| pause.saturating_sub(age)),
            ..fault
        })
    }
}

impl<T: Clone> Kept<T> {
    /// The kept answer if it is fresh enough, while nothing may be requested.
    pub(super) fn peek(&self, key: &str, wanted: Freshness<'_>, life: impl Fn(&T) -> Duration) -> Option<T> {
        let slot = Arc::clone(self.0.lock().get(key)?);
        let kept = slot.try_lock().ok()?;
        let answer = kept.as_ref().filter(|answer| is_fresh(answer, wanted, &life))?;
        answer.result.clone().ok()
    }

    /// The kept answer if it is fresh enough, otherwise the one that `request` gets. `life` says how long an answer counts.
    pub(super) async fn get<F>(
        &self,
        key: &str,
        wanted: Freshness<'_>,
        life: impl Fn(&T) -> Duration,
        request: F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let slot = Arc::clone(self.0.lock().entry(key.to_owned()).or_default());
        let mut kept = tokio::time::timeout_at(wanted.deadline.into(), slot.lock()).await.map_err(|_| {
            Fault::new(
                Reason::Timeout,
                "another probe waits for the same answer, which did not arrive in time",
            )
        })?;
        if let Some(answer) = kept.as_ref().filter(|answer| is_fresh(answer, wanted, &life)) {
            return answer.at_age(wanted.now.since(answer.at));
        }
        let result = request.await;
        *kept = Some(Answer { at: wanted.now, mark: wanted.mark.to_owned(), result: result.clone() });
        result
    }

    /// Forgets the answers whose keys are not wanted any more.
    pub(super) fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.0.lock().retain(|key, _| is_wanted(key));
    }
}

fn is_fresh<T>(answer: &Answer<T>, wanted: Freshness<'_>, life: impl Fn(&T) -> Duration) -> bool {
    let age = wanted.now.since(answer.at);
    let counts = match &answer.result {
        Ok(value) => life(value),
        Err(fault) => fault.retry_after.unwrap_or(FAULT_COUNTS).max(FAULT_COUNTS),
    };
    answer.mark == wanted.mark && age < if wanted.asked { JUST_NOW } else { counts }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn at(seconds: i64, mark: &str, asked: bool) -> Freshness<'_> {
        let deadline = Instant::now() + Duration::from_secs(60);
        Freshness { now: Timestamp::from_seconds(seconds), mark, asked, deadline }
    }

    #[tokio::test]
    async fn an_answer_is_requested_when_it_is_not_fresh() {
        let kept = Kept::<u32>::default();
        let requests = AtomicU32::new(0);
        let hour = |_: &u32| Duration::from_secs(3600);
        for (sentence, wanted, expected) in [
            ("the first", at(0, "a", false), 1),
            ("soon afterwards", at(1, "a", false), 1),
            ("a person asks soon afterwards", at(9, "a", true), 1),
            ("a person asks later", at(10, "a", true), 2),
            ("the credential in use has changed", at(11, "b", false), 3),
            ("within its life", at(3610, "b", false), 3),
            ("after its life", at(3611, "b", false), 4),
        ] {
            let answer =
                kept.get("k", wanted, hour, async { Ok(requests.fetch_add(1, Ordering::Relaxed) + 1) }).await;
            assert_eq!(answer, Ok(expected), "{sentence}");
        }
    }

    #[tokio::test]
    async fn all_who_wait_get_one_answer_and_faults_count_briefly() {
        let kept = Kept::<u32>::default();
        let requests = AtomicU32::new(0);
        let failing = |now| {
            let requests = &requests;
            let request = async move {
                tokio::task::yield_now().await;
                requests.fetch_add(1, Ordering::Relaxed);
                Err::<u32, _>(Fault::new(Reason::Timeout, ""))
            };
            kept.get("k", at(now, "", false), |_| Duration::ZERO, request)
        };
        let (first, second, third) = tokio::join!(failing(0), failing(0), failing(29));
        assert!(first.is_err() && second.is_err() && third.is_err());
        assert_eq!(requests.load(Ordering::Relaxed), 1);
        assert!(failing(30).await.is_err());
        assert_eq!(requests.load(Ordering::Relaxed), 2);
    }
}
