//! The Amazon States Language: parse, validate, paths, intrinsic functions, choice rules and retry rules, without IO.
