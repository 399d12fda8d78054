//! The first request on an HTTP/2 connection.
