//! The program: runs the command line and maps its result to an exit status.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let command = consentry::cli::Cli::parse();
    hide_memory();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(1024 * 1024)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("consentry: cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(consentry::cli::run(command)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("consentry: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Every command has secrets in memory, so no core file is written, and no other process of the same user may attach to the process or read
/// its memory (Linux, `PR_SET_DUMPABLE(2const)`). If the kernel or a sandbox does not allow this, the program runs nevertheless.
#[cfg(target_os = "linux")]
fn hide_memory() {
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        eprintln!("consentry: other processes of this user may read this one's memory: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
const fn hide_memory() {}
