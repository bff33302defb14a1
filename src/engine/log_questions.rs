//! Questions about the log of a cluster. Those who ask at the same time share one question, so however many ask, few are under way.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, oneshot},
    time::timeout,
};

use crate::{
    engine::Service,
    shadow::Rejection,
    store::{LogInquiry, LogStatus},
};

/// The longest wait for a barrier, in which NATS elects another leader in most cases. Clients wait for 10 s.
const PASSED_WITHIN: Duration = Duration::from_secs(8);

/// The log of a cluster and the questions about it; of a single node there is none.
#[derive(Default)]
pub(super) struct LogQuestions {
    log: OnceLock<Arc<dyn LogInquiry>>,
    barrier: SharedQuestion<Result<(), String>>,
    status: SharedQuestion<Result<LogStatus, String>>,
}

/// A question whose answer is for all who asked before it was put.
struct SharedQuestion<T> {
    /// The number of times it was put.
    put: AtomicU64,
    /// The newest answer, and the number of its question.
    answer: Mutex<(u64, Option<T>)>,
}

impl<T> Default for SharedQuestion<T> {
    fn default() -> Self {
        Self { put: AtomicU64::new(0), answer: Mutex::new((0, None)) }
    }
}

impl<T: Clone> SharedQuestion<T> {
    /// Returns an answer to a question that was put after this call.
    async fn ask(&self, question: impl Future<Output = T>) -> T {
        let put = self.put.load(Ordering::SeqCst);
        let mut last = self.answer.lock().await;
        if let (number, Some(answer)) = &*last
            && *number > put
        {
            return answer.clone();
        }
        let number = self.put.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = question.await;
        *last = (number, Some(answer.clone()));
        answer
    }
}

impl Service {
    /// Sets the log of the cluster.
    pub fn set_log(&self, log: Arc<dyn LogInquiry>) {
        let set = self.questions.log.set(log);
        debug_assert!(set.is_ok(), "a server joins once");
    }

    /// Returns true if this is a node of a cluster.
    #[must_use]
    pub fn is_in_cluster(&self) -> bool {
        self.questions.log.get().is_some()
    }

    /// Returns true if this node has left its cluster, so that its clients miss what others do.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.health().member.is_some_and(|member| member.latched.is_some())
    }

    /// Returns the state of the cluster's log, or the reason why it is not known; `None` for a single node.
    pub async fn log_status(&self) -> Option<Result<LogStatus, String>> {
        let LogQuestions { log, status, .. } = &self.questions;
        Some(status.ask(log.get()?.status()).await)
    }

    /// Waits until this node has applied all that the log of the cluster had at this call, so that a read sees every update that was answered
    /// at any node. At a single node it returns at once. `otherwise` says in a refusal what cannot be done, or is done without this.
    ///
    /// A request without content goes through the log for that. The end that NATS reports is not enough: the server that leads may
    /// report a record later than another one delivers it to a node.
    ///
    /// # Errors
    ///
    /// [`Rejection::Unavailable`] with `otherwise`: the log does not answer, or this node does not follow it.
    pub async fn reach_log_end(&self, otherwise: &str) -> Result<(), Rejection> {
        if !self.is_in_cluster() {
            return Ok(());
        }
        let passed = timeout(PASSED_WITHIN, self.questions.barrier.ask(self.pass_barrier())).await;
        let passed =
            passed.unwrap_or_else(|_| Err(format!("the cluster's log has not answered within {PASSED_WITHIN:?}")));
        passed.map_err(|reason| Rejection::Unavailable(format!("{reason}; {otherwise}")))
    }

    async fn pass_barrier(&self) -> Result<(), String> {
        let permit = self.reserve_broadcast(0).ok_or("too much waits for the cluster's log")?;
        let (passed, wait) = oneshot::channel();
        let on_applied = move || {
            let _nobody_waits_any_more = passed.send(());
        };
        self.store.send_barrier(Box::new(on_applied), permit);
        let withdrawn = |_| {
            let obstacle = self.health().member.and_then(|member| member.obstacle());
            obstacle.unwrap_or_else(|| "the cluster's log does not answer".to_owned())
        };
        wait.await.map_err(withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Waker},
    };

    use tokio::sync::oneshot;

    use super::*;

    fn is_pending<T>(future: &mut Pin<Box<impl Future<Output = T>>>) -> bool {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// The answer to a question that is under way may be older than a later request.
    #[tokio::test]
    async fn an_answer_is_never_older_than_its_request() {
        let shared = SharedQuestion::default();
        let (answer, answered) = oneshot::channel();
        let mut first = Box::pin(shared.ask(async { answered.await.unwrap_or_default() }));
        assert!(is_pending(&mut first));
        let (mut second, mut third) = (Box::pin(shared.ask(async { 2 })), Box::pin(shared.ask(async { 3 })));
        assert!(is_pending(&mut second) && is_pending(&mut third));
        answer.send(1).expect("it is awaited");
        assert_eq!(first.await, 1);
        // The question of the second was put after the third had asked.
        assert_eq!((second.await, third.await), (2, 2));
    }

    /// A request that ends early leaves the question to the next.
    #[tokio::test]
    async fn a_request_that_ends_early_holds_up_nobody() {
        let shared = SharedQuestion::default();
        let mut first = Box::pin(shared.ask(std::future::pending::<u32>()));
        assert!(is_pending(&mut first));
        let mut second = Box::pin(shared.ask(async { 2 }));
        assert!(is_pending(&mut second));
        drop(first);
        assert_eq!(second.await, 2);
    }
}
