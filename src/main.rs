//! The program: runs the command line and maps its result to an exit status.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let command = consentry::cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_stack_size(1024 * 1024).enable_all().build() {
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
