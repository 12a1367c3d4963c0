//! The rules of a bank, without effects: values in, values out.
//!
//! [`window`] says until when a lot may be handed out, [`stock`] how many codes remain, [`hold`] whether a customer
//! keeps a code, [`draw`] which lots serve a need, [`outcome`] what a customer got, [`suspicion`] which redemptions look
//! wrong. The store carries the same rules out
//! over sets of rows; a randomised test holds the two against each other.

pub mod draw;
pub mod hold;
pub mod outcome;
pub mod stock;
pub mod suspicion;
pub mod window;
