//! Tests of the client over a scripted wire, over HTTP, and over a simulated region.

mod churn;
mod fake;
mod http;
mod policy;
mod sim;
mod spans;
mod wrong;
