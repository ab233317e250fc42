//! TLS on the gRPC port, in a build with it and in one without.

#[cfg(not(feature = "tls"))]
mod disabled;
#[cfg(feature = "tls")]
mod enabled;
mod flags;

#[cfg(not(feature = "tls"))]
pub use self::disabled::{Settings, Stream, Tls, secure};
#[cfg(feature = "tls")]
pub use self::enabled::{Settings, Stream, Tls, secure};
pub use self::flags::Flags;
