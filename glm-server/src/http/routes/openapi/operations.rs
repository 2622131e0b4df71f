//! Every path and method of the service.

use utoipa::openapi::HttpMethod::{self, Delete, Get, Post};

/// A method of a path.
pub(super) struct Operation {
    pub(super) method: HttpMethod,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [&'static str],
    pub(super) body: Option<Body>,
    pub(super) status: u16,
    pub(super) success: Success,
    pub(super) errors: &'static [u16],
    /// The name of their schema.
    pub(super) error: &'static str,
}

/// What goes in: the name of a schema.
pub(super) enum Body {
    Json(&'static str),
    Form(&'static str),
}

/// What comes out.
pub(super) enum Success {
    /// The name of a schema.
    Json(&'static str),
    /// The same, or events.
    JsonOrStream(&'static str),
    /// A media type.
    Other(&'static str),
}

/// Of what is read from a body and asked of the engine.
const ASKING: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504];
/// Of what is looked up.
const READING: &[u16] = &[400, 401, 403, 404, 500, 503];
/// Of what everybody may see at any time.
const OPEN: &[u16] = &[];

impl Operation {
    const fn new(
        method: HttpMethod,
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        summary: &'static str,
        success: Success,
    ) -> Self {
        Self {
            method,
            path,
            id,
            tag,
            summary,
            query: &[],
            body: None,
            status: 200,
            success,
            errors: READING,
            error: "Error",
        }
    }

    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(Body::Json(schema));
        self.errors = ASKING;
        self
    }

    const fn form(mut self, schema: &'static str) -> Self {
        self.body = Some(Body::Form(schema));
        self.errors = ASKING;
        self
    }

    const fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }

    const fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    const fn errors(mut self, errors: &'static [u16]) -> Self {
        self.errors = errors;
        self
    }

    const fn anthropic(mut self) -> Self {
        self.error = "AnthropicError";
        self
    }

    /// Of those that say how the service is: 503 says it too.
    const fn probe(mut self) -> Self {
        self.errors = &[503];
        self.error = "Health";
        self
    }

    /// Whether a key is asked for, if there are keys.
    pub(super) fn is_guarded(&self) -> bool {
        self.errors.contains(&401)
    }
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Post,
        "/v1/chat/completions",
        "createChatCompletion",
        "Answers",
        "Answer a chat",
        Success::JsonOrStream("ChatCompletion"),
    )
    .body("ChatCompletionRequest"),
    Operation::new(
        Post,
        "/v1/completions",
        "createCompletion",
        "Answers",
        "Continue a text",
        Success::JsonOrStream("Completion"),
    )
    .body("CompletionRequest"),
    Operation::new(
        Post,
        "/v1/messages",
        "createMessage",
        "Answers",
        "Answer a chat in Anthropic's dialect",
        Success::JsonOrStream("Message"),
    )
    .body("MessageRequest")
    .anthropic(),
    Operation::new(
        Post,
        "/v1/messages/count_tokens",
        "countTokens",
        "Tokens",
        "Count the tokens of a message's prompt",
        Success::Json("TokenCount"),
    )
    .body("CountTokensRequest")
    .anthropic(),
    Operation::new(
        Post,
        "/v1/responses",
        "createResponse",
        "Answers",
        "Answer, and keep the answer to go on from",
        Success::JsonOrStream("Response"),
    )
    .body("ResponseRequest"),
    Operation::new(
        Get,
        "/v1/responses/{id}",
        "getResponse",
        "Answers",
        "A response that was kept",
        Success::Json("Response"),
    )
    .query(&["stream"]),
    Operation::new(
        Delete,
        "/v1/responses/{id}",
        "deleteResponse",
        "Answers",
        "Forget a response",
        Success::Json("Deleted"),
    )
    .errors(&[400, 401, 403, 404, 409, 500, 503]),
    Operation::new(
        Post,
        "/v1/responses/{id}/cancel",
        "cancelResponse",
        "Answers",
        "Stop a response that is made in the background",
        Success::Json("Response"),
    )
    .errors(&[400, 401, 403, 404, 429, 500, 503]),
    Operation::new(
        Get,
        "/v1/responses/{id}/input_items",
        "listInputItems",
        "Answers",
        "What a response is the answer to",
        Success::Json("List"),
    ),
    Operation::new(
        Post,
        "/v1/embeddings",
        "createEmbedding",
        "Answers",
        "Texts to vectors",
        Success::Json("EmbeddingList"),
    )
    .body("EmbeddingRequest"),
    Operation::new(
        Get,
        "/v1/models",
        "listModels",
        "Models",
        "The model and its adapters",
        Success::Json("List"),
    ),
    Operation::new(
        Get,
        "/v1/models/{id}",
        "getModel",
        "Models",
        "One of them",
        Success::Json("Model"),
    ),
    Operation::new(
        Post,
        "/tokenize",
        "tokenize",
        "Tokens",
        "Text or a chat to token ids",
        Success::Json("Tokens"),
    )
    .body("TokenizeRequest"),
    Operation::new(
        Post,
        "/detokenize",
        "detokenize",
        "Tokens",
        "Token ids to text",
        Success::Json("Text"),
    )
    .body("DetokenizeRequest"),
    Operation::new(
        Post,
        "/v1/tasks",
        "submitTask",
        "Later",
        "Have a request answered later",
        Success::Json("Task"),
    )
    .body("TaskRequest")
    .status(202)
    .errors(&[400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503]),
    Operation::new(
        Get,
        "/v1/tasks",
        "listTasks",
        "Later",
        "Tasks",
        Success::Json("List"),
    ),
    Operation::new(
        Get,
        "/v1/tasks/{id}",
        "getTask",
        "Later",
        "A task and its result",
        Success::Json("Task"),
    ),
    Operation::new(
        Delete,
        "/v1/tasks/{id}",
        "cancelTask",
        "Later",
        "Stop a task",
        Success::Json("Task"),
    )
    .errors(&[400, 401, 403, 404, 409, 500, 503]),
    Operation::new(
        Get,
        "/v1/tasks/{id}/events",
        "watchTask",
        "Later",
        "What happens to a task, as events",
        Success::Other("text/event-stream"),
    ),
    Operation::new(
        Post,
        "/v1/files",
        "uploadFile",
        "Later",
        "Upload the input of a batch",
        Success::Json("File"),
    )
    .form("FileUpload"),
    Operation::new(
        Get,
        "/v1/files",
        "listFiles",
        "Later",
        "Files",
        Success::Json("List"),
    ),
    Operation::new(
        Get,
        "/v1/files/{id}",
        "getFile",
        "Later",
        "About a file",
        Success::Json("File"),
    ),
    Operation::new(
        Delete,
        "/v1/files/{id}",
        "deleteFile",
        "Later",
        "Delete a file",
        Success::Json("Deleted"),
    )
    .errors(&[400, 401, 403, 404, 409, 500, 503]),
    Operation::new(
        Get,
        "/v1/files/{id}/content",
        "getFileContent",
        "Later",
        "What is in a file",
        Success::Other("application/octet-stream"),
    ),
    Operation::new(
        Post,
        "/v1/batches",
        "createBatch",
        "Later",
        "Answer a file of requests",
        Success::Json("Batch"),
    )
    .body("BatchRequest"),
    Operation::new(
        Get,
        "/v1/batches",
        "listBatches",
        "Later",
        "Batches",
        Success::Json("List"),
    ),
    Operation::new(
        Get,
        "/v1/batches/{id}",
        "getBatch",
        "Later",
        "How far a batch is",
        Success::Json("Batch"),
    ),
    Operation::new(
        Post,
        "/v1/batches/{id}/cancel",
        "cancelBatch",
        "Later",
        "Stop a batch",
        Success::Json("Batch"),
    )
    .errors(&[400, 401, 403, 404, 409, 429, 500, 503]),
    Operation::new(
        Get,
        "/healthz",
        "health",
        "Service",
        "How the service is",
        Success::Json("Health"),
    )
    .probe(),
    Operation::new(
        Get,
        "/livez",
        "live",
        "Service",
        "Whether the engine makes progress",
        Success::Json("Health"),
    )
    .probe(),
    Operation::new(
        Get,
        "/readyz",
        "ready",
        "Service",
        "Whether requests are taken",
        Success::Json("Health"),
    )
    .probe(),
    Operation::new(
        Get,
        "/startupz",
        "started",
        "Service",
        "Whether the model has been loaded",
        Success::Json("Health"),
    )
    .probe(),
    Operation::new(
        Get,
        "/metrics",
        "metrics",
        "Service",
        "Numbers for Prometheus",
        Success::Other("application/openmetrics-text"),
    )
    .errors(&[401, 403, 500]),
    Operation::new(
        Get,
        "/dashboard/events",
        "watchService",
        "Service",
        "The numbers of the dashboard, as events",
        Success::Other("text/event-stream"),
    )
    .errors(&[401, 403]),
    Operation::new(
        Get,
        "/debug/pprof/profile",
        "profileCpu",
        "Service",
        "Where the processor spends its time, for pprof; needs the scope admin",
        Success::Other("application/octet-stream"),
    )
    .query(&["seconds"])
    .errors(&[400, 401, 403, 429, 500, 501]),
    Operation::new(
        Get,
        "/debug/pprof/heap",
        "profileHeap",
        "Service",
        "Who has allocated what, for pprof; needs the scope admin",
        Success::Other("application/octet-stream"),
    )
    .errors(&[401, 403, 500, 501]),
    Operation::new(
        Get,
        "/openapi.json",
        "openapi",
        "Service",
        "This document",
        Success::Json("Object"),
    )
    .errors(OPEN),
    Operation::new(
        Get,
        "/docs",
        "docs",
        "Service",
        "This document for people",
        Success::Other("text/html"),
    )
    .errors(OPEN),
];
