use arbiterq_client::Client;
use arbiterq_tests::{Service, serve_config};
use std::time::Duration;

#[tokio::test]
async fn in_process() {
    let arbiter = arbiterq::testing::in_process().await;
    let client = arbiter.client().await.unwrap();
    for _ in 0..3 {
        let grant = client.acquire("db/migrate").await.unwrap();
        assert!(client.acquire("db/migrate").try_now().await.is_err());
        grant.release().await.unwrap();
    }
}

#[tokio::test]
async fn tcp_hot() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(serve_config(folder.path())).await.unwrap();
    let client = Client::connect(&service.url).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                let grant = client.acquire("r").wait(Duration::from_secs(10)).await.unwrap();
                grant.release().await.unwrap();
            }
        });
    }
    while let Some(r) = tasks.join_next().await { r.unwrap(); }
    client.close().await;
    drop(client);
    service.stop().await.unwrap();
    let report = arbiterq::audit::verify::verify_folder(&folder.path().join("0"), &mut |_| {}).unwrap();
    println!("{report}");
}
