//! Programs run on frames that are given to them (BPF_PROG_TEST_RUN).

use std::time::Duration;

use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun, TestRunOptions};

use super::{Filter, FilterError, lock};

/// What a program made of a frame, and how long it took.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What it returned (the last time, if it ran more than once).
    pub code: i32,
    /// The frame as it left it.
    pub frame: Vec<u8>,
    /// How long a run took, on the average. That of a single run has a reading of the clock in it.
    pub duration: Duration,
}

impl Filter {
    /// Runs a program on a frame (BPF_PROG_TEST_RUN): its result, and the frame as it left it.
    ///
    /// # Errors
    ///
    /// When there is no such program, or the kernel can't run it on such a frame.
    pub fn run(&self, program: &'static str, frame: &[u8]) -> Result<(i32, Vec<u8>), FilterError> {
        self.run_marked(program, 0, frame)
    }

    /// Runs a program on a frame that carries `mark`, as [`run`](Self::run) does.
    ///
    /// # Errors
    ///
    /// When there is no such program, or the kernel can't run it on such a frame.
    pub fn run_marked(
        &self,
        program: &'static str,
        mark: u32,
        frame: &[u8],
    ) -> Result<(i32, Vec<u8>), FilterError> {
        let ran = self.measure(program, mark, frame, 1)?;
        Ok((ran.code, ran.frame))
    }

    /// Runs a program `repeat` times on a frame that carries `mark`. Each run gets the frame as the one before has left it.
    ///
    /// # Errors
    ///
    /// When there is no such program, or the kernel can't run it on such a frame.
    pub fn measure(
        &self,
        program: &'static str,
        mark: u32,
        frame: &[u8],
        repeat: u32,
    ) -> Result<Ran, FilterError> {
        let ebpf = lock(&self.ebpf);
        let program: &SchedClassifier = ebpf
            .program(program)
            .ok_or(FilterError::Object { what: program })?
            .try_into()?;
        let mut out = vec![0u8; frame.len() + 256];
        // The first fields of `struct __sk_buff`: len, pkt_type, mark. The kernel takes a shorter one.
        let mut context = [0u8; 12];
        context[8..].copy_from_slice(&mark.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        let result = program.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        Ok(Ran {
            code: result.return_value as i32,
            frame: out,
            duration: result.duration,
        })
    }

    /// How long a program takes for a frame, on the average of `repeat` runs (BPF_PROG_TEST_RUN).
    ///
    /// # Errors
    ///
    /// When there is no such program, or the kernel can't run it on such a frame.
    pub fn time(
        &self,
        program: &'static str,
        frame: &[u8],
        repeat: u32,
    ) -> Result<Duration, FilterError> {
        Ok(self.measure(program, 0, frame, repeat)?.duration)
    }

    /// Attaches one program by itself (tcx) to what arrives at an interface of the thread's namespace, until the result is
    /// dropped: for measurements of what it costs there.
    ///
    /// # Errors
    ///
    /// When there is no such program or interface, or the kernel refuses.
    pub fn attach_alone(
        &self,
        program: &'static str,
        interface: &str,
    ) -> Result<SchedClassifierLink, FilterError> {
        let mut ebpf = lock(&self.ebpf);
        let loaded: &mut SchedClassifier = ebpf
            .program_mut(program)
            .ok_or(FilterError::Object { what: program })?
            .try_into()?;
        let order = TcAttachOptions::TcxOrder(LinkOrder::last());
        let id = loaded.attach_with_options(interface, TcAttachType::Ingress, order)?;
        Ok(loaded.take_link(id)?)
    }
}
