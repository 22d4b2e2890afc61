//! Collection, step by step and under attack.

mod runs;
mod sim;
