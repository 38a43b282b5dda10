//! How far a run is: a bar on a terminal, a line per step elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The steps of a run.
pub(crate) struct Progress {
    bar: ProgressBar,
    name: &'static str,
}

impl Progress {
    /// A run that will take so many steps.
    pub(crate) fn new(name: &'static str, steps: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
        let style = "{prefix} {bar:30} {pos}/{len} {elapsed} (about {eta} left) {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_prefix(name);
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, name }
    }

    /// Says what is being done now.
    pub(crate) fn begin(&self, what: impl Into<String>) {
        let what = what.into();
        if self.bar.is_hidden() {
            let (now, all) = (self.bar.position() + 1, self.bar.length().unwrap_or(0));
            eprintln!("{} {now}/{all}: {what}", self.name);
        }
        self.bar.set_message(what);
    }

    /// A step is done.
    pub(crate) fn done(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
