//! `GET /openapi.json`: what this service takes and answers, generated from the tables that its dialects read bodies by. `GET /docs`:
//! the same for people.

mod operations;
mod schemas;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths, Ref,
    Required, ResponseBuilder,
};

use self::operations::{Body, OPERATIONS, Operation, Success};

const PAGE: &str = include_str!("page.html");

pub(super) async fn document() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    // It is made of constants, and a test makes it too.
    let text = TEXT.get_or_init(|| openapi().to_json().unwrap_or_default());
    let content_type = [(CONTENT_TYPE, "application/json")];
    (StatusCode::OK, content_type, text.as_str()).into_response()
}

pub(super) async fn page() -> Response {
    let content_type = [(CONTENT_TYPE, "text/html; charset=utf-8")];
    (StatusCode::OK, content_type, PAGE).into_response()
}

fn openapi() -> OpenApi {
    let mut paths = Paths::new();
    for operation in OPERATIONS {
        paths
            .paths
            .entry(operation.path.to_owned())
            .or_default()
            .merge_operations(PathItem::new(
                operation.method.clone(),
                described(operation),
            ));
    }
    let mut components = ComponentsBuilder::new()
        .security_scheme(
            "bearer",
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
        )
        .security_scheme(
            "x-api-key",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key"))),
        );
    for (name, schema) in schemas::all() {
        components = components.schema(name, schema);
    }
    let info = InfoBuilder::new()
        .title("GLM")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Answers of GLM language models, in the dialects of OpenAI and Anthropic.",
        ));
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

fn described(operation: &Operation) -> utoipa::openapi::path::Operation {
    let mut described = OperationBuilder::new()
        .operation_id(Some(operation.id))
        .tag(operation.tag)
        .summary(Some(operation.summary));
    for name in path_parameters(operation.path) {
        described = described.parameter(parameter(name, ParameterIn::Path, Required::True));
    }
    for name in operation.query {
        described = described.parameter(parameter(name, ParameterIn::Query, Required::False));
    }
    if let Some(body) = &operation.body {
        let (media_type, schema) = match body {
            Body::Json(schema) => ("application/json", *schema),
            Body::Form(schema) => ("multipart/form-data", *schema),
        };
        let body = RequestBodyBuilder::new()
            .content(media_type, reference(schema))
            .required(Some(Required::True));
        described = described.request_body(Some(body.build()));
    }
    described = described.response(operation.status.to_string(), success(&operation.success));
    for status in operation.errors {
        let reason = StatusCode::from_u16(*status).ok();
        let reason = reason.and_then(|status| status.canonical_reason());
        let error = ResponseBuilder::new()
            .description(reason.unwrap_or_default())
            .content("application/json", reference(operation.error));
        described = described.response(status.to_string(), error.build());
    }
    if operation.is_guarded() {
        let none: [&str; 0] = [];
        described = described
            .security(SecurityRequirement::new("bearer", none))
            .security(SecurityRequirement::new("x-api-key", none))
            // A service without keys asks for none.
            .security(SecurityRequirement::default());
    }
    described.build()
}

fn success(success: &Success) -> utoipa::openapi::Response {
    let response = ResponseBuilder::new().description("As asked for");
    let text = || ContentBuilder::new().schema(Some(Object::with_type(Type::String)));
    match success {
        Success::Json(schema) => response.content("application/json", reference(schema)),
        Success::JsonOrStream(schema) => response
            .content("application/json", reference(schema))
            .content("text/event-stream", text().build()),
        Success::Other(media_type) => response.content(*media_type, text().build()),
    }
    .build()
}

fn reference(schema: &str) -> utoipa::openapi::Content {
    let schema = Ref::from_schema_name(schema);
    ContentBuilder::new().schema(Some(schema)).build()
}

fn parameter(name: &str, place: ParameterIn, required: Required) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .schema(Some(Object::with_type(Type::String)))
        .build()
}

/// The names in braces.
fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}
