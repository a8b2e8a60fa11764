//! Ports for the programs that are started here. Reserves none: between the look and the use another may take it.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// The first of `count` ports that are free, one after the other, and below those that the system
/// gives out by itself. The process id spreads processes that run at the same time.
pub fn free_ports_in_a_row(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 300).expect("a small number") * 64;
    loop {
        let first = 11_000 + spread + NEXT.fetch_add(count, Ordering::Relaxed) % 2000;
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}
