//! Example. 
mod activities;
fn main(){}
