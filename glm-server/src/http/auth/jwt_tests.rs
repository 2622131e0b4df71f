//! Tokens: what is accepted, and every way that one can be wrong.

use std::fs;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Access, AuthOptions, Denied, Identity, JwtOptions, Scope};
use crate::http::error::ServeError;

const SECRET: &str = "a secret that has thirty-two bytes";
/// An RSA key of 2048 bits whose private half is gone, and a token that it signed: subject `ann`, until 2100.
const RSA_MODULUS: &str = "woqdyHeZlJmmy8r8j1g1x-PdkZNdurL3fRV_vVP582zRA7nWTwyGiDFr4L4WcuuvhN_VZPzL_1CrCiuOxLZ2s4mxgfOuujxCGkKrjQlGaiLyiBB1fDReVhOpa4t8f4vh129AuUpak_2EgyEeGoxhBbJzIhDjB4OC9wdEE0zlitv3LK6hJ4EIhtvyKChVSU83i_G8yW1pwJxHp_2SvMqUn2ecN0TmsYlV0BTBVgyNbNsY84gSZTIC6OBfOWkXZA_PkKSyK8eSkJMzPgyHqfAlc_RVgxUvRul6jUkxvbD8TL3F6O62Drir7bySeCBFzTY4UKiuhv7RdMUK-TJMr4tOLQ";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im9uZSJ9.eyJzdWIiOiJhbm4iLCJleHAiOjQxMDI0NDQ4MDB9.GcF_yTv7ccoPh5S60Z2unQUTDHOgmCxQLsqfmMG_-EGUox0AYckO-yIxrOTwcMBtCaxIO97yIdickuZw4kLDFZ-LQwln54p8VjFO0b-XsXchy0Temg2bvIdnKhTyhBPZwwXajkbjuDS5MrnOR913J-NFCu_tMQrPefaHdhVOnm-tf4r1w2KobewgnGNXFN1nYESG7CqT1i3_-Av208zgTxhaLi1P6UdAeFu36NFZo5iNm3cda8KfMiqAN3PArSsluwERW6sx62IvpSzXIsdDuIBhCIaznQTSdAQX71WiCdA6rBPdGQPYuHfwZdF_l3qKl3HwWAN3jeGE6WXV9tKopA";
/// The year 2100.
const FAR: u64 = 4_102_444_800;

fn part(value: &Value) -> String {
    BASE64.encode(value.to_string())
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", part(header), part(claims))
}

/// A token of HS256 with this secret.
fn signed(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", BASE64.encode(signature))
}

fn token(claims: Value) -> String {
    let mut all = json!({"sub": "ann", "exp": FAR});
    all.as_object_mut()
        .unwrap()
        .extend(claims.as_object().unwrap().clone());
    signed(
        SECRET.as_bytes(),
        &json!({"alg": "HS256", "typ": "JWT"}),
        &all,
    )
}

fn ed25519() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

/// What accepts tokens of the secret and of both public keys.
fn access(options: JwtOptions) -> (TempDir, Result<Access, ServeError>) {
    let dir = TempDir::new().unwrap();
    let (secret, jwks) = (dir.path().join("secret"), dir.path().join("jwks.json"));
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let set = json!({"keys": [
        {"kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", "n": RSA_MODULUS, "e": "AQAB"},
        {"kty": "OKP", "kid": "two", "crv": "Ed25519", "x": BASE64.encode(ed25519().public_key())},
        {"kty": "EC", "kid": "three", "crv": "P-256", "x": "AA", "y": "AA"},
    ]});
    fs::write(&jwks, set.to_string()).unwrap();
    let auth = AuthOptions {
        jwt: Some(JwtOptions {
            secret_file: Some(secret),
            jwks_file: Some(jwks),
            ..options
        }),
        ..AuthOptions::default()
    };
    (dir, Access::open(&auth))
}

fn identify(access: &Access, token: &str) -> Result<Identity, Denied> {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    access.identify(&headers)
}

#[test]
fn each_algorithm_is_accepted_from_its_own_key() {
    let (_dir, access) = access(JwtOptions::default());
    let access = access.unwrap();
    let whose =
        |token: &str| identify(&access, token).map(|identity| identity.tenant.0.to_string());
    assert_eq!(whose(&token(json!({}))).unwrap(), "ann");
    assert_eq!(whose(RSA_TOKEN).unwrap(), "ann");
    let message = message(
        &json!({"alg": "EdDSA", "kid": "two"}),
        &json!({"sub": "eve", "exp": FAR}),
    );
    let signature = BASE64.encode(ed25519().sign(message.as_bytes()));
    assert_eq!(whose(&format!("{message}.{signature}")).unwrap(), "eve");
}

#[test]
fn what_is_not_signed_by_a_key_of_its_algorithm_is_nobodys() {
    let (_dir, access) = access(JwtOptions::default());
    let access = access.unwrap();
    let claims = json!({"sub": "ann", "exp": FAR});
    let (head, signature) = RSA_TOKEN.rsplit_once('.').unwrap();
    let other_claims = format!(
        "{}.{}.{signature}",
        head.split('.').next().unwrap(),
        part(&json!({"sub": "eve", "exp": FAR}))
    );
    let modulus = BASE64.decode(RSA_MODULUS).unwrap();
    let is_public = ed25519().public_key().as_ref().to_vec();
    for (what, wrong) in [
        (
            "no algorithm",
            format!("{}.", message(&json!({"alg": "none"}), &claims)),
        ),
        (
            "another secret",
            signed(
                b"another secret, thirty-two bytes long",
                &json!({"alg": "HS256"}),
                &claims,
            ),
        ),
        (
            "a public key as a secret",
            signed(&modulus, &json!({"alg": "HS256"}), &claims),
        ),
        (
            "another public key as a secret",
            signed(&is_public, &json!({"alg": "HS256", "kid": "two"}), &claims),
        ),
        (
            "the secret under another name",
            signed(
                SECRET.as_bytes(),
                &json!({"alg": "RS256", "kid": "one"}),
                &claims,
            ),
        ),
        (
            "a longer hash",
            signed(SECRET.as_bytes(), &json!({"alg": "HS512"}), &claims),
        ),
        ("other claims", other_claims),
        (
            "an extension that must be understood",
            signed(
                SECRET.as_bytes(),
                &json!({"alg": "HS256", "crit": ["x"]}),
                &claims,
            ),
        ),
        ("a broken signature", format!("{}x", token(json!({})))),
        ("no token", "a.b.c".to_owned()),
        ("nothing", "..".to_owned()),
    ] {
        assert_eq!(
            identify(&access, &wrong).err(),
            Some(Denied::Unknown),
            "{what}"
        );
    }
}

#[test]
fn claims_are_checked() {
    let options = JwtOptions {
        issuer: Some("us".to_owned()),
        audience: Some("glm".to_owned()),
        ..JwtOptions::default()
    };
    let (_dir, access) = access(options);
    let access = access.unwrap();
    let is_accepted = |claims: Value| identify(&access, &token(claims)).is_ok();
    assert!(is_accepted(json!({"iss": "us", "aud": "glm"})));
    assert!(is_accepted(
        json!({"iss": "us", "aud": ["other", "glm"], "nbf": 1})
    ));
    for wrong in [
        json!({"aud": "glm"}),
        json!({"iss": "them", "aud": "glm"}),
        json!({"iss": "us"}),
        json!({"iss": "us", "aud": "other"}),
        json!({"iss": "us", "aud": "glm", "exp": 1}),
        json!({"iss": "us", "aud": "glm", "exp": null}),
        json!({"iss": "us", "aud": "glm", "nbf": FAR}),
        json!({"iss": "us", "aud": "glm", "sub": null}),
    ] {
        assert!(!is_accepted(wrong.clone()), "{wrong}");
    }
}

#[test]
fn tenant_and_scopes_are_claims() {
    let (_dir, access) = access(JwtOptions::default());
    let access = access.unwrap();
    let who = |claims: Value| identify(&access, &token(claims)).unwrap();
    let plain = who(json!({}));
    assert_eq!(
        (&*plain.name, &*plain.scopes),
        ("jwt:ann", &Scope::USUAL[..])
    );
    let scoped = who(json!({"tenant": "acme", "scope": "openid metrics admin"}));
    assert_eq!(&*scoped.tenant.0, "acme");
    assert_eq!(&*scoped.scopes, [Scope::Metrics, Scope::Admin]);
    assert_eq!(&*who(json!({"scope": ["tasks"]})).scopes, [Scope::Tasks]);
    assert!(who(json!({"scope": 1})).scopes.is_empty());
}

#[test]
fn keys_that_would_not_hold_are_refused() {
    let dir = TempDir::new().unwrap();
    let open = |text: &str, is_secret: bool| {
        let path = dir.path().join("file");
        fs::write(&path, text).unwrap();
        let mut jwt = JwtOptions::default();
        match is_secret {
            true => jwt.secret_file = Some(path),
            false => jwt.jwks_file = Some(path),
        }
        let auth = AuthOptions {
            jwt: Some(jwt),
            ..AuthOptions::default()
        };
        Access::open(&auth).unwrap_err().to_string()
    };
    assert!(open("short", true).contains("5 bytes"));
    assert!(open("{", false).contains("not a JSON Web Key Set"));
    assert!(open(r#"{"keys": []}"#, false).contains("no public key"));
    let octets =
        r#"{"keys": [{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
    assert!(open(octets, false).contains("no public key"));
}
