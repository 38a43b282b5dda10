//! the DTS daemon as a library
