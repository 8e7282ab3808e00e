//! Where the table is, and how it is reached.

use std::{fmt, time::Duration};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::{
    Client,
    config::{Builder, SharedHttpClient, retry::RetryConfig, timeout::TimeoutConfig},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tasklock_core::{LockError, Locker, LockerBuilder};
use url::Url;

use crate::{DynamoLock, error::invalid};

/// Settings of a [`DynamoLock`]; those of the locks themselves (prefix, ttl, renewal) are the [`LockerBuilder`]'s.
///
/// Credentials come from where the AWS SDK looks for them: the environment, the shared files, a web identity, the
/// container or the instance. None is ever part of an address.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use tasklock_core::Renew;
/// use tasklock_dynamo::DynamoLock;
///
/// # async fn f() -> Result<(), tasklock_core::LockError> {
/// let lock = DynamoLock::builder("locks")
///     .region("eu-central-1")
///     .connect()
///     .await?
///     .prefix("billing")
///     .ttl(Duration::from_secs(20))
///     .renew(Renew::Every(Duration::from_secs(8)))
///     .build()?;
/// # drop(lock);
/// # Ok(()) }
/// ```
#[must_use]
pub struct DynamoBuilder {
    table: String,
    region: Option<String>,
    endpoint: Option<String>,
    call_timeout: Duration,
}

const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl DynamoBuilder {
    pub(crate) fn new(table: String) -> Self {
        DynamoBuilder { table, region: None, endpoint: None, call_timeout: CALL_TIMEOUT }
    }

    /// The table's region. By default that of the environment or of the shared files.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Another endpoint than the region's: an emulator, a VPC endpoint. `http://` or `https://`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// How long one request may take before it counts as not answered, and is made again: 50 ms to 60 s, 3 s by
    /// default.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Makes the client. It sends nothing to DynamoDB yet; a region that was not told is looked for.
    ///
    /// The client repeats no request by itself: the locker does, and knows which answer is whose.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidOption`] names a setting that cannot be, or the region if none is found.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn open(self) -> Result<DynamoLock, LockError> {
        check_table(&self.table)?;
        if self.call_timeout < Duration::from_millis(50) || self.call_timeout > Duration::from_secs(60) {
            return Err(invalid("call_timeout", &format!("{:?}", self.call_timeout), "it is 50 ms to 60 s"));
        }
        let region = self.region.as_deref().map(check_region).transpose()?;
        let endpoint = self.endpoint.as_deref().map(check_endpoint).transpose()?;
        let is_plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(https());
        if let Some(region) = region {
            loader = loader.region(region);
        }
        let found = loader.load().await;
        if found.region().is_none() {
            return Err(invalid("region", "", "none is known: tell it, or set AWS_REGION"));
        }
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(self.call_timeout))
            .operation_attempt_timeout(self.call_timeout)
            .build();
        let mut config = Builder::from(&found).retry_config(RetryConfig::disabled()).timeout_config(timeouts);
        if is_plain {
            config = config.http_client(aws_smithy_http_client::Builder::new().build_http());
        }
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint);
        }
        DynamoLock::new(Client::from_conf(config.build()), self.table)
    }

    /// Makes the client, sees that the table is there and is one for locks, and gives a locker to be set up.
    ///
    /// # Errors
    ///
    /// As [`open`](DynamoBuilder::open) and [`DynamoLock::check`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn connect(self) -> Result<LockerBuilder, LockError> {
        let store = self.open().await?;
        store.check().await?;
        Ok(Locker::builder(store))
    }
}

impl fmt::Debug for DynamoBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An endpoint that was not checked may contain anything.
        f.debug_struct("DynamoBuilder")
            .field("table", &self.table)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// The rules of DynamoDB for a table's name.
pub(crate) fn check_table(name: &str) -> Result<(), LockError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !(3..=255).contains(&name.len()) || !name.chars().all(fits) {
        return Err(invalid("table", name, "a table's name is 3 to 255 of the characters A-Z a-z 0-9 _ - ."));
    }
    Ok(())
}

fn check_region(region: &str) -> Result<Region, LockError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(1..=63).contains(&region.len()) || !region.chars().all(fits) {
        return Err(invalid("region", region, "a region is like `eu-central-1`"));
    }
    Ok(Region::new(region.to_owned()))
}

fn check_endpoint(endpoint: &str) -> Result<Url, LockError> {
    const LIMIT: &str = "an endpoint is `http://host:port` or `https://host`, without user, password and parameters";
    // What is not understood is not shown: it may contain a password.
    let Ok(url) = Url::parse(endpoint) else { return Err(invalid("endpoint", "…", LIMIT)) };
    let bare =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) || !bare {
        let shown = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        return Err(invalid("endpoint", &shown, LIMIT));
    }
    Ok(url)
}

fn https() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::rustls(CryptoMode::Ring)).build_https()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_rules() {
        let long = "x".repeat(256);
        for wrong in ["", "ab", "a b", "locks/", "schlösser", &long] {
            let error = check_table(wrong).unwrap_err();
            assert!(matches!(error, LockError::InvalidOption(_)), "{error}");
            assert!(error.to_string().contains("3 to 255"), "{error}");
        }
        for right in ["abc", "My_locks-2.prod", &long[1..]] {
            check_table(right).unwrap();
        }
    }

    #[test]
    fn secrets_in_an_endpoint_are_refused_and_not_shown() {
        for wrong in ["http://me:secret@host", "ftp://host/", "secret", "http://host/?key=secret", "secret:"] {
            let error = check_endpoint(wrong).unwrap_err().to_string();
            assert!(!error.contains("secret") || wrong == "secret:", "{error}");
        }
        check_endpoint("http://127.0.0.1:8000").unwrap();
        check_endpoint("https://vpce-1.dynamodb.eu-central-1.vpce.amazonaws.com").unwrap();
    }

    #[test]
    fn regions_are_names() {
        assert!(check_region("eu-central-1").is_ok());
        for wrong in ["", "EU", "eu central", "a.b"] {
            assert!(check_region(wrong).is_err(), "{wrong}");
        }
    }
}
