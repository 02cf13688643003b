//! The examples do what they say.

#[path = "../examples/custom_model.rs"]
mod custom_model;
#[path = "../examples/embed.rs"]
mod embed;

#[test]
fn a_model_from_outside_trains_like_any_other() {
    let result = custom_model::run().unwrap();
    assert_eq!((result.steps, result.backend.name()), (100, "cpu"));
    let validation = result.validation.unwrap();
    assert!(validation.accuracy > 0.8, "{validation:?}");
    assert!(std::str::from_utf8(&result.weights).unwrap().contains("\"counts\""));
}

#[tokio::test]
async fn a_worker_lives_in_another_program() {
    assert_eq!(embed::run().await.unwrap(), 20);
}
