//! Collection, step by step and under attack.

mod repack;
mod runs;
mod sim;
