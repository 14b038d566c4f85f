//! HTTP: `/metrics`, health, and the page behind a mailed link. Reads what is published; waits for nobody.

mod pages;
mod server;

pub use pages::{Lookup, Standing};
pub use server::{Served, bind, serve};
