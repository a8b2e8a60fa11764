//! Every decision that needs no I/O, each in one place and pure: facts and the time in, verdict out.
//!
//! No clock, no randomness, no SQL. The ledger gathers the facts and writes what follows; the
//! same functions serve whoever only wants to know what would happen.
//!
//! | question | where |
//! |---|---|
//! | who gets a retained address? | [`retained::decide`] |
//! | what does a pod ask for? | [`opt_in::read`] |
//! | which vSwitches may it use, in what order? | [`placement::allowed`] |
//! | when does a retention end? | [`retention`] |
//! | which cloud call is next for an ENI? | [`eni::next`] |
//! | why is there no address? | [`pool::Exhausted`] |
//! | may retentions end while the clock jumps? | [`clock::Guard`] |

pub mod clock;
pub mod eni;
pub mod opt_in;
pub mod placement;
pub mod pool;
pub mod retained;
pub mod retention;
pub mod use_spec;
