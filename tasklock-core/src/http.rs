//! Lock errors as HTTP answers.

use axum_core::response::{IntoResponse, Response};
use http::{StatusCode, header::RETRY_AFTER};

use crate::LockError;

/// `409 Conflict` if somebody else has the lock and the call was not to wait; `503 Service Unavailable` if waiting did
/// not help, the lock was lost, the store is out or the locker shut down; both with `Retry-After` in seconds. `400 Bad
/// Request` for a name that no lock can have. `500 Internal Server Error` for mistakes in the program. The body says no
/// more than that: the error's own text names the lock and its holder, and is for the log.
impl IntoResponse for LockError {
    fn into_response(self) -> Response {
        let (status, text) = match &self {
            LockError::Held { .. } => (StatusCode::CONFLICT, "locked"),
            LockError::InvalidKey(_) => return (StatusCode::BAD_REQUEST, "not a name for a lock").into_response(),
            LockError::ShutDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
            error if error.is_contended() => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            error if error.is_retryable() => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            error => {
                tracing::error!(target: "tasklock", "{error}");
                return (StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response();
            }
        };
        let seconds = self.retry_after().map_or(1, |left| left.as_secs().max(1));
        (status, [(RETRY_AFTER, seconds.to_string())], text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{BackendError, Holder, Key, Owner};

    fn answer(error: LockError) -> (u16, Option<String>) {
        let response = error.into_response();
        let retry = response.headers().get(RETRY_AFTER).map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), retry)
    }

    #[test]
    fn statuses() {
        let key = Key::new("job").unwrap();
        let holder = Holder::new(Owner::named("x")).remaining(Some(Duration::from_millis(7_900)));
        let held = LockError::Held { key: key.clone(), holder: Some(Arc::new(holder)) };
        assert_eq!(answer(held), (409, Some("7".to_owned())));
        let timeout = LockError::Timeout { key: key.clone(), waited: Duration::ZERO, holder: None };
        assert_eq!(answer(timeout), (503, Some("1".to_owned())));
        assert_eq!(answer(BackendError::transient("out").into()), (503, Some("1".to_owned())));
        assert_eq!(answer(LockError::ShutDown), (503, Some("1".to_owned())));
        assert_eq!(answer(crate::InvalidKey::Empty.into()), (400, None));
        assert_eq!(answer(BackendError::fatal("wrong password").into()), (500, None));
        assert_eq!(answer(LockError::WouldDeadlock { key }), (500, None));
    }
}
