//! Programs run on frames that are given to them (BPF_PROG_TEST_RUN).

use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

use super::{Filter, FilterError, lock};

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
        let result = program.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value as i32, out))
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
        let ebpf = lock(&self.ebpf);
        let program: &SchedClassifier = ebpf
            .program(program)
            .ok_or(FilterError::Object { what: program })?
            .try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        Ok(program.test_run(options)?.duration)
    }
}
