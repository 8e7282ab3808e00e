//! Tests of the macros, in a package of their own.
