//! The table: made when told, and looked at.

use std::time::Duration;

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription,
        TableStatus, Tag, TimeToLiveSpecification,
    },
};

use crate::{DynamoError, DynamoLock, item};

/// The pause between two looks at a table that is being made.
const PAUSE: Duration = Duration::from_millis(500);
/// A table that was just asked for may not be seen at once: so many looks are given it.
const UNSEEN: u32 = 20;

impl DynamoLock {
    /// Makes the table if it is not there: billed by request, with a time to live for items that nobody has used for 30
    /// days, under these tags. Returns when it can be used, which takes seconds. A table that is there is left as it
    /// is, but for the time to live.
    ///
    /// Needs rights that locking does not: `CreateTable`, `DescribeTable`, `DescribeTimeToLive`, `UpdateTimeToLive`
    /// and, with tags, `TagResource`. Meant for a deployment's step, or a test.
    ///
    /// # Errors
    ///
    /// [`DynamoError::KeySchema`] if there is a table of this name for something else; [`DynamoError::Refused`] if it is
    /// being deleted, or cannot be used for another reason; [`DynamoError::Denied`] names the right that is missing.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have made the table, with or without the time to live; call it again.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = tasklock_dynamo::DynamoLock::builder("locks").region("eu-central-1").open().await?;
    /// store.create_table([("team", "billing")]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn create_table<K: Into<String>, V: Into<String>>(
        &self,
        tags: impl IntoIterator<Item = (K, V)> + Send,
    ) -> Result<(), DynamoError> {
        let (client, table) = (&self.inner.client, &self.inner.table);
        let malformed = |error: aws_sdk_dynamodb::error::BuildError| DynamoError::NotSent {
            action: "CreateTable",
            message: error.to_string(),
            passing: false,
        };
        let mut create = client
            .create_table()
            .table_name(table)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(
                AttributeDefinition::builder()
                    .attribute_name(item::KEY)
                    .attribute_type(ScalarAttributeType::S)
                    .build()
                    .map_err(malformed)?,
            )
            .key_schema(
                KeySchemaElement::builder()
                    .attribute_name(item::KEY)
                    .key_type(KeyType::Hash)
                    .build()
                    .map_err(malformed)?,
            );
        for (name, value) in tags {
            create = create.tags(Tag::builder().key(name).value(value).build().map_err(malformed)?);
        }
        match create.send().await {
            Ok(_) => {}
            Err(SdkError::ServiceError(e)) if e.err().is_resource_in_use_exception() => {}
            Err(error) => return Err(DynamoError::of("CreateTable", table, &error)),
        }
        self.until_there().await?;
        self.let_rubbish_go().await
    }

    /// Whether the table is there, is one for locks, and may be read: one read of an item that no lock has.
    ///
    /// # Errors
    ///
    /// [`DynamoError::NoTable`], [`DynamoError::KeySchema`], [`DynamoError::Denied`], [`DynamoError::Credentials`],
    /// [`DynamoError::Clock`] say what to do; [`DynamoError::Unanswered`] and [`DynamoError::NotSent`] that nobody
    /// answered.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn check(&self) -> Result<(), DynamoError> {
        // No lock has a name with a control character.
        let nobody = aws_sdk_dynamodb::types::AttributeValue::S("\u{1}check".to_owned());
        let get = self.inner.client.get_item().table_name(&self.inner.table).key(item::KEY, nobody);
        match get.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(DynamoError::of("GetItem", &self.inner.table, &error)),
        }
    }

    async fn until_there(&self) -> Result<(), DynamoError> {
        let (client, table) = (&self.inner.client, &self.inner.table);
        for look in 1_u32.. {
            let told = client.describe_table().table_name(table).send().await;
            match told.map_err(|error| DynamoError::of("DescribeTable", table, &error)) {
                Ok(told) => match told.table {
                    Some(told) if !is_for_locks(&told) => return Err(DynamoError::KeySchema { table: table.clone() }),
                    Some(told) => match told.table_status {
                        Some(TableStatus::Active) => break,
                        Some(TableStatus::Creating | TableStatus::Updating) | None => {}
                        Some(other) => {
                            let message = "it cannot be used, and is not being made".to_owned();
                            return Err(DynamoError::Refused {
                                action: "CreateTable",
                                code: format!("table `{table}` is {other}"),
                                message,
                            });
                        }
                    },
                    None => {}
                },
                Err(DynamoError::NoTable { .. }) if look < UNSEEN => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn let_rubbish_go(&self) -> Result<(), DynamoError> {
        let (client, table) = (&self.inner.client, &self.inner.table);
        let described = client.describe_time_to_live().table_name(table).send().await;
        let described = described.map_err(|error| DynamoError::of("DescribeTimeToLive", table, &error))?;
        if described.time_to_live_description.is_some_and(|ttl| ttl.attribute_name.as_deref() == Some(item::PURGE)) {
            return Ok(());
        }
        let ttl = TimeToLiveSpecification::builder().attribute_name(item::PURGE).enabled(true).build();
        let ttl = ttl.map_err(|error| DynamoError::NotSent {
            action: "UpdateTimeToLive",
            message: error.to_string(),
            passing: false,
        })?;
        match client.update_time_to_live().table_name(table).time_to_live_specification(ttl).send().await {
            Ok(_) => Ok(()),
            // Somebody else was faster.
            Err(SdkError::ServiceError(e)) if e.err().message().is_some_and(|m| m.contains("already enabled")) => {
                Ok(())
            }
            Err(error) => Err(DynamoError::of("UpdateTimeToLive", table, &error)),
        }
    }
}

fn is_for_locks(table: &TableDescription) -> bool {
    let [key] = table.key_schema() else { return false };
    let is_text = table
        .attribute_definitions()
        .iter()
        .any(|a| a.attribute_name == item::KEY && a.attribute_type == ScalarAttributeType::S);
    key.attribute_name == item::KEY && key.key_type == KeyType::Hash && is_text
}
