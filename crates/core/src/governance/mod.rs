//! Rules: what a proposal is judged by.
