//! stub
pub mod core;
mod draft;
mod observed;
pub mod record;
pub mod status;
pub mod view;
