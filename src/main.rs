//! The program `holdfast`.

use std::process::ExitCode;

/// Gives memory back after a burst, which the system's allocator does not for each thread's share.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    holdfast::cli::main()
}
