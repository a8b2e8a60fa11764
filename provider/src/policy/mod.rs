//! stub
pub mod opt_in;
