//! Finding tensors in an unpickled state dict.

use super::pickle::{Id, Object, Objects};

/// Most dimensions of a tensor; no weight has more than four.
const MAX_DIMS: usize = 8;

/// A tensor as `torch._utils._rebuild_tensor_v2` would be told to build it. Texts are borrowed: any number of tensors may refer to
/// the same long one.
#[derive(Debug, PartialEq)]
pub(super) struct StoredTensor<'a> {
    pub(super) name: &'a str,
    /// Class of the storage: "HalfStorage", ...
    pub(super) storage_type: &'a str,
    /// Key of the storage: the entry `data/<key>` of the archive.
    pub(super) storage: &'a str,
    /// In elements from the start of the storage.
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) stride: Vec<usize>,
}

/// What a state dict holds that it should not.
#[derive(Debug)]
pub(super) struct StateDictError {
    pub(super) field: String,
    pub(super) expected: String,
    pub(super) found: String,
}

/// Keys under which training scripts wrap the state dict of the model.
const WRAPPERS: [&str; 3] = ["state_dict", "model", "module"];

/// Lists the tensors of the state dict at the root.
pub(super) fn tensors(objects: &Objects) -> Result<Vec<StoredTensor<'_>>, StateDictError> {
    let Object::Dict(entries) = objects.get(objects.root) else {
        return Err(error(
            "data.pkl",
            "a dict of tensors",
            describe(objects, objects.root),
        ));
    };
    let wrapped = WRAPPERS.iter().find_map(|key| {
        let (_, value) = entries
            .iter()
            .find(|(name, _)| matches!(objects.get(*name), Object::Text(name) if name == key))?;
        match objects.get(*value) {
            Object::Dict(inner) => Some(inner),
            _ => None,
        }
    });
    let mut tensors = Vec::new();
    for (name, value) in wrapped.unwrap_or(entries) {
        if let (Object::Text(name), call @ Object::Call { .. }) =
            (objects.get(*name), objects.get(*value))
        {
            tensors.push(tensor(objects, name, call)?);
        }
    }
    Ok(tensors)
}

fn tensor<'a>(
    objects: &'a Objects,
    name: &'a str,
    call: &Object,
) -> Result<StoredTensor<'a>, StateDictError> {
    // Only where an error needs it: any number of tensors may refer to the same long name.
    let field = || format!("tensor `{name}`");
    let Object::Call { callable, args } = call else {
        return Err(error(&field(), "a call", "another object".into()));
    };
    let (function, args) = (describe(objects, *callable), tuple(objects, *args));
    match (function.as_str(), args) {
        ("torch._utils._rebuild_parameter", Some([data, ..])) => match objects.get(*data) {
            // Only one level: a parameter of a parameter is never written, and would let a file recurse without end.
            inner @ Object::Call { callable, .. }
                if describe(objects, *callable) == "torch._utils._rebuild_tensor_v2" =>
            {
                tensor(objects, name, inner)
            }
            _ => Err(error(
                &field(),
                "a tensor in a parameter",
                describe(objects, *data),
            )),
        },
        ("torch._utils._rebuild_tensor_v2", Some([storage, offset, shape, stride, ..])) => {
            let parts = storage_reference(objects, *storage)
                .zip(size(objects, *offset))
                .zip(sizes(objects, *shape))
                .zip(sizes(objects, *stride));
            let Some(((((storage_type, storage), offset), shape), stride)) = parts else {
                return Err(error(
                    &field(),
                    &format!("storage, offset, size and stride of at most {MAX_DIMS} dimensions"),
                    "something else".into(),
                ));
            };
            Ok(StoredTensor {
                name,
                storage_type,
                storage,
                offset: offset as u64,
                shape,
                stride,
            })
        }
        (function, _) => Err(error(
            &field(),
            "torch._utils._rebuild_tensor_v2 with its arguments",
            format!("a call of {function} (not executed)"),
        )),
    }
}

/// `("storage", torch.HalfStorage, "17", "cpu", 4096)`: class and key.
fn storage_reference(objects: &Objects, id: Id) -> Option<(&str, &str)> {
    let Object::Persistent(reference) = objects.get(id) else {
        return None;
    };
    let [_, class, key, ..] = tuple(objects, *reference)? else {
        return None;
    };
    match (objects.get(*class), objects.get(*key)) {
        (Object::Global(class), Object::Text(key)) => Some((class.strip_prefix("torch.")?, key)),
        _ => None,
    }
}

fn tuple(objects: &Objects, id: Id) -> Option<&[Id]> {
    match objects.get(id) {
        Object::Tuple(items) => Some(items),
        _ => None,
    }
}

fn size(objects: &Objects, id: Id) -> Option<usize> {
    match objects.get(id) {
        Object::Int(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}

fn sizes(objects: &Objects, id: Id) -> Option<Vec<usize>> {
    let items = tuple(objects, id).filter(|items| items.len() <= MAX_DIMS)?;
    items.iter().map(|&id| size(objects, id)).collect()
}

/// A short description for messages: never the whole graph.
fn describe(objects: &Objects, id: Id) -> String {
    match objects.get(id) {
        Object::Global(name) => name.clone(),
        Object::None => "None".into(),
        Object::Bool(value) => value.to_string(),
        Object::Int(value) => value.to_string(),
        Object::Text(_) => "a text".into(),
        Object::Tuple(items) | Object::List(items) => format!("a list of {}", items.len()),
        Object::Dict(entries) => format!("a dict of {}", entries.len()),
        Object::Call { .. } => "a call".into(),
        Object::Persistent(_) => "a storage".into(),
        Object::Opaque => "another object".into(),
    }
}

fn error(field: &str, expected: &str, found: String) -> StateDictError {
    StateDictError {
        field: field.to_owned(),
        expected: expected.to_owned(),
        found,
    }
}
