//! The HTTP server: metrics, health, profile and the JSON of the live page.
