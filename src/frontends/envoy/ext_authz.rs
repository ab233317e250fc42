//! `envoy.service.auth.v3.Authorization`: Envoy checks whether a request or a TCP
//! connection may proceed.
//!
//! | module | what flows there |
//! |---|---|
//! | [`without_body`] | a message in pieces, without the body of the request it describes |
//! | [`question`] | a message, walked in place, to the checked attributes |
//! | [`settings`] | the validated flags |
//! | [`authorizer`] | a message to its verdict |
//! | [`answer`] | a verdict to a CheckResponse |
//! | [`audit`] | attributes and verdict to a record |
//! | [`service`] | the service: answers, counters, records |

pub mod answer;
pub mod audit;
pub mod authorizer;
pub mod question;
pub mod service;
pub mod settings;
pub mod without_body;

pub use self::authorizer::{Checked, ExtAuthz};
pub use self::service::Service;
