//! The commands of operators, and the end of a rollout by its driver.

use super::{Control, NotPossible, Rollout, State};

impl Rollout {
    /// Applies a command.
    ///
    /// # Errors
    ///
    /// [`NotPossible`] in the present state.
    pub fn control(&mut self, control: Control) -> Result<(), NotPossible> {
        match (control, self.head.state) {
            (Control::Pause, State::Running) => self.set_state(State::Paused, None),
            (Control::Resume, State::Paused) => self.set_state(State::Running, None),
            (Control::Cancel, State::Running | State::Paused) => self.end(State::Cancelled, None),
            (
                Control::RollBack,
                State::Running | State::Paused | State::Completed | State::Aborted | State::Cancelled,
            ) => {
                self.end(State::RollingBack, None);
                self.next = 0;
                self.again.clear();
                self.head.rollbacks += 1;
            }
            (_, state) => return Err(NotPossible(state)),
        }
        self.head.commands += 1;
        self.settle();
        Ok(())
    }

    /// Ends the rollout for a reason of the driver, such as a revoked login.
    pub fn stop(&mut self, reason: &str) {
        if !self.head.state.is_final() {
            self.end(State::Aborted, Some(reason.into()));
        }
    }
}
