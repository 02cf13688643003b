//! A Vulkan driver that passes Mesa's software driver off as a discrete graphics card with a PCI address.
//!
//! ```text
//! Vulkan loader --> this library --> libvulkan_lvp.so
//!                     |  name, type and PCI address from card.json beside it
//! ```
//!
//! Everything is computed by the software driver; three functions that describe the card answer otherwise. One copy in a
//! folder of its own is one card, so that a test has as many as it wants.

mod driver;
mod install;

pub use install::{Card, install};
