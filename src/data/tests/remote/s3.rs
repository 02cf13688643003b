//! Objects of S3, from a stand-in that checks their signatures.

use sha2::{Digest, Sha256};

use super::super::super::remote::{Credentials, S3, Secret};
use super::server::Request;
use super::*;

/// The worker's S3 is `server`.
pub(super) fn with_s3(server: &Server) -> Worker {
    let mut worker = Worker::new(server);
    // Neither list nor addresses matter to what the configuration itself names.
    worker.config.remote.allowed_hosts = Vec::new();
    worker.config.remote.local_addresses = LocalAddresses::Refused;
    worker.config.remote.s3 = S3 {
        endpoint: Some(format!("http://127.0.0.1:{}", server.port)),
        region: Some("eu-central-1".to_owned()),
        credentials: Some(Credentials {
            access_key_id: Secret::new("AKIDEXAMPLE"),
            secret_access_key: Secret::new("hunter2"),
            session_token: Some(Secret::new("token/of+mine")),
        }),
    };
    worker
}

/// Why S3 would refuse `request`: what is wrong with its signature, worked out anew from the specification.
///
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>.
pub(super) fn refusal(request: &Request, secret: &str, region: &str) -> Option<String> {
    let (path, query) = request.target.split_once('?')?;
    let mut pairs: Vec<&str> = query.split('&').collect();
    let signature = pairs.iter().position(|pair| pair.starts_with("X-Amz-Signature="));
    let Some(signature) = signature.map(|at| pairs.remove(at)) else { return Some("unsigned".to_owned()) };
    pairs.sort_unstable();
    let value = |name: &str| {
        let pair = pairs.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.unwrap_or_else(|| panic!("{name} is not in {query}"))
    };
    assert_eq!(value("X-Amz-Algorithm"), "AWS4-HMAC-SHA256");
    assert_eq!(value("X-Amz-SignedHeaders"), "host");
    let moment = value("X-Amz-Date");
    let day = &moment[..8];
    let scope = format!("{day}/{region}/s3/aws4_request");
    let credential = format!("AKIDEXAMPLE/{scope}").replace('/', "%2F");
    if value("X-Amz-Credential") != credential {
        return Some(format!("{} is not {credential}", value("X-Amz-Credential")));
    }
    let host = &request.headers["host"];
    let canonical =
        format!("{}\n{path}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", request.method, pairs.join("&"));
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", hexadecimal(&Sha256::digest(canonical)));
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), day);
    for part in [region, "s3", "aws4_request"] {
        key = hmac(&key, part);
    }
    let expected = format!("X-Amz-Signature={}", hexadecimal(&hmac(&key, &text)));
    (signature != expected).then(|| format!("{signature} is not {expected}"))
}

/// HMAC with SHA-256 (RFC 2104); keys are no longer than a block here.
fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let block = |pad: u8| -> Vec<u8> { (0..64).map(|at| pad ^ key.get(at).unwrap_or(&0)).collect() };
    let inner = Sha256::digest([block(0x36), message.as_bytes().to_vec()].concat());
    Sha256::digest([block(0x5c), inner.to_vec()].concat()).to_vec()
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_stand_in_knows_the_example_of_the_specification() {
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F\
                 aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host";
    let request = |signature: &str| Request {
        method: "GET".to_owned(),
        body: Vec::new(),
        target: format!("/test.txt?{query}&X-Amz-Signature={signature}"),
        headers: HashMap::from([("host".to_owned(), "examplebucket.s3.amazonaws.com".to_owned())]),
    };
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    let said = refusal(&request("0"), secret, "us-east-1").unwrap();
    let right = said.rsplit('=').next().unwrap();
    assert_eq!(refusal(&request(right), secret, "us-east-1"), None);
    assert!(refusal(&request(right), "another", "us-east-1").is_some());
}

#[test]
fn objects_are_asked_for_with_a_signature_of_version_four() {
    let server = Server::start(|request| {
        if let Some(why) = refusal(request, "hunter2", "eu-central-1") {
            return Answer::new("403 Forbidden", "", why.as_bytes());
        }
        match request.headers.get("if-none-match") {
            Some(_) => Answer::new("304 Not Modified", "", b""),
            None => Answer::ok("ETag: \"v1\"\r\n", CSV),
        }
    });
    let mut worker = with_s3(&server);
    for _ in 0..2 {
        let dataset = worker.load("s3://my-bucket/folder/a b+ü.csv").unwrap();
        assert_eq!((dataset.train.len(), dataset.path.as_str()), (4, "s3://my-bucket/folder/a b+ü.csv"));
    }
    let requests = server.requests();
    assert_eq!(requests[1].headers["if-none-match"], "\"v1\"");
    for request in &requests {
        assert_eq!(request.headers["host"], format!("127.0.0.1:{}", server.port));
        assert!(request.target.starts_with("/my-bucket/folder/a%20b%2B%C3%BC.csv?"), "{}", request.target);
        assert!(request.target.contains("X-Amz-Security-Token=token%2Fof%2Bmine"), "{}", request.target);
        assert!(request.target.contains("X-Amz-Expires=600&"), "{}", request.target);
    }
    // With another key the same stand-in refuses; nothing of either is said.
    let wrong = Secret::new("hunter3");
    worker.config.remote.s3.credentials.as_mut().unwrap().secret_access_key = wrong;
    let error = worker.load("s3://my-bucket/b.csv").unwrap_err();
    let text = format!("{error} {error:?} {:?}", worker.config);
    expect(error, ErrorCode::PermissionDenied, &["s3://my-bucket/b.csv", "403"]);
    for secret in ["hunter", "AKID", "token/", "X-Amz", "Signature"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

#[test]
fn public_objects_are_asked_for_without_a_signature() {
    let server = Server::start(|_| Answer::ok("", CSV));
    let mut worker = with_s3(&server);
    worker.config.remote.s3.credentials = None;
    worker.load("s3://my-bucket/a.csv").unwrap();
    assert_eq!(server.requests()[0].target, "/my-bucket/a.csv");
}

#[test]
fn objects_that_cannot_be_had_say_why() {
    let server = Server::start(|_| Answer::new("403 Forbidden", "", b"<Error/>"));
    let mut worker = with_s3(&server);
    worker.refused("s3://my-bucket/a.csv", ErrorCode::PermissionDenied, &["s3://my-bucket/a.csv", "403"]);
    let code = ErrorCode::InvalidArgument;
    for path in [
        "s3://my-bucket",
        "s3://my-bucket/",
        "s3:///key",
        "s3://My_Bucket/key",
        "s3://a..b/key",
        "s3://my-bucket/../other/key",
        "s3://my-bucket/a/./b",
        "s3://my-bucket/a\\..\\b",
        "s3://my-bucket/a\nb",
    ] {
        worker.refused(path, code, &["dataset_path", "s3://BUCKET/KEY"]);
    }
    assert_eq!(server.requests().len(), 1);
    worker.config.remote.s3 = S3::default();
    worker.refused("s3://my-bucket/a.csv", code, &["AWS_REGION or S3_ENDPOINT"]);
}
