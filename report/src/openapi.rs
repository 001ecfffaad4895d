//! Schemas for OpenAPI descriptions, where a type alone does not say what is accepted.
//!
//! The types here are never made: fields of the wire types name them as what stands there.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, Components, KnownFormat, ObjectBuilder, Schema,
    SchemaFormat, SchemaType, Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::identity::IdSource;
use crate::inventory::{AmdGpu, Attachment, ComputeCapability, Disk, Link, Nic, NicKind};
use crate::plausible::{
    MAX_CPUS, MAX_GPU_MEMORY_BYTES, MAX_GPUS, MAX_MEMORY_BYTES, MAX_SPEED_MBPS, MAX_STORAGE_BYTES,
    MAX_TEXT_CHARS,
};
use crate::reply::RefusalCode;

/// Says that a reading holds one key and no other, which deriving does not.
pub fn close_readings(components: &mut Components) {
    for (name, schema) in &mut components.schemas {
        let RefOr::T(Schema::OneOf(reading)) = schema else { continue };
        if !name.starts_with("Reading_") {
            continue;
        }
        for item in &mut reading.items {
            if let RefOr::T(Schema::Object(object)) = item
                && !object.properties.is_empty()
            {
                object.additional_properties =
                    Some(Box::new(AdditionalProperties::FreeForm(false)));
            }
        }
    }
}

/// A text as reports carry it.
pub(crate) struct Text;

impl PartialSchema for Text {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .description(Some("A text without control characters."))
            .min_length(Some(1))
            .max_length(Some(MAX_TEXT_CHARS))
            .pattern(Some(r"^[^\u0000-\u001F\u007F-\u009F]*$"));
        text.into()
    }
}

impl ToSchema for Text {}

impl PartialSchema for ComputeCapability {
    fn schema() -> RefOr<Schema> {
        let capability = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .description(Some("A GPU's compute capability, `MAJOR.MINOR`."))
            .examples(["9.0"])
            .pattern(Some(r"^[0-9]{1,9}\.[0-9]{1,9}$"));
        capability.into()
    }
}

impl ToSchema for ComputeCapability {}

/// Whole numbers within the bounds that a report is held to.
macro_rules! bounded {
    ($($name:ident: $words:literal, $min:literal, $max:expr;)*) => {$(
        #[doc = $words]
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let number = ObjectBuilder::new()
                    .schema_type(SchemaType::new(Type::Integer))
                    .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
                    .description(Some($words))
                    .minimum(Some($min))
                    .maximum(Some($max));
                number.into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

bounded! {
    CpuCount: "A number of CPUs, cores, sockets or NUMA nodes.", 1, MAX_CPUS;
    MemoryBytes: "Memory in bytes.", 1, MAX_MEMORY_BYTES;
    SwapBytes: "Swap in bytes.", 0, MAX_MEMORY_BYTES;
    DiskBytes: "A disk's capacity in bytes.", 1, MAX_STORAGE_BYTES;
    LinkMbps: "A link's speed in Mbit/s.", 1, MAX_SPEED_MBPS;
    GpuCount: "A number of GPUs.", 0, MAX_GPUS;
    GpuMemoryBytes: "A GPU's memory in bytes.", 1, MAX_GPU_MEMORY_BYTES;
    Count: "A number of things, or the number of one.", 0, u32::MAX;
    Bytes: "A size in bytes.", 0, u64::MAX;
    EpochSeconds: "Seconds since the epoch.", 0, u64::MAX;
}

/// Physical disks, in the order of their names, which are unique.
#[derive(ToSchema)]
#[schema(max_items = 4096)]
#[expect(dead_code, reason = "never made, only described")]
pub(crate) struct Disks(Vec<Disk>);

/// Physical network interfaces, in the order of their names, which are unique.
#[derive(ToSchema)]
#[schema(max_items = 1024)]
#[expect(dead_code, reason = "never made, only described")]
pub(crate) struct Nics(Vec<Nic>);

/// AMD's GPUs, in the order of their PCI addresses, which are unique.
#[derive(ToSchema)]
#[schema(max_items = 256)]
#[expect(dead_code, reason = "never made, only described")]
pub(crate) struct AmdGpus(Vec<AmdGpu>);

/// Enumerations to which newer versions may add: the known values, and any other text.
macro_rules! open_enum {
    ($($name:ident: $words:literal, [$($value:literal),*];)*) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let known = ObjectBuilder::new()
                        .schema_type(SchemaType::new(Type::String))
                        .enum_values(Some([$($value),*]));
                    let newer = ObjectBuilder::new()
                        .schema_type(SchemaType::new(Type::String))
                        .description(Some("Something that only a newer version knows."));
                    let either = AnyOfBuilder::new()
                        .description(Some($words))
                        .item(known)
                        .item(newer);
                    either.into()
                }
            }

            impl ToSchema for $name {}
        )*

        #[cfg(test)]
        mod tests {
            use super::*;

            /// A name that is misspelt above is read as that of a newer version.
            #[test]
            fn known_values_are_known() {
                $($({
                    let json = concat!('"', $value, '"');
                    let read: $name = serde_json::from_str(json).expect("a value");
                    let written = serde_json::to_string(&read).expect("encoded");
                    assert_eq!(written, json, stringify!($name));
                })*)*
            }
        }
    };
}

open_enum! {
    IdSource: "Where a proposed `nodeID` comes from.", ["explicit", "label", "nodeName"];
    Attachment: "Where a disk is. Only local disks count in the document.", ["local", "network"];
    NicKind: "What a network interface speaks.", ["ethernet", "infiniband", "other"];
    Link: "The state of an interface's link.", ["up", "down", "unknown"];
    RefusalCode: "What kind of refusal, for programs.", [
        "credentials-missing", "credentials-wrong", "forbidden", "malformed", "schema-version",
        "implausible", "identity-conflict", "conflict", "too-large", "too-slow", "not-found",
        "media-type", "unavailable", "other"
    ];
}
