use futures::FutureExt;
use nacre_blobstore::testing::TokioClock;

use super::*;

fn queue(turns: usize) -> Arc<FairQueue> {
    Arc::new(FairQueue::new(turns, Arc::new(TokioClock::new())))
}

fn client(name: &str) -> ClientId {
    name.into()
}

const DEMAND: Priority = Priority::Demand;
const MAY_SHED: Admission = Admission::MayShed;

/// Waits for a turn and says who had it.
async fn served(queue: Arc<FairQueue>, who: &str, priority: Priority, order: &Mutex<Vec<String>>) {
    let turn = queue
        .turn(&client(who), priority, Admission::Begun)
        .await
        .unwrap();
    order.lock().unwrap().push(who.to_owned());
    // Others run before the turn is passed on.
    tokio::task::yield_now().await;
    drop(turn);
}

#[tokio::test(start_paused = true)]
async fn clients_take_turns() {
    let queue = queue(1);
    let held = queue.turn(&client("x"), DEMAND, MAY_SHED).await.unwrap();
    let order = Mutex::new(Vec::new());
    let many = (0..5).map(|_| served(Arc::clone(&queue), "many", DEMAND, &order).boxed_local());
    let few =
        ["one", "two"].map(|who| served(Arc::clone(&queue), who, DEMAND, &order).boxed_local());
    let all = futures::future::join_all(many.chain(few));
    let mut all = std::pin::pin!(all);
    assert!(futures::poll!(&mut all).is_pending());
    assert_eq!(queue.waiting(), 7);
    drop(held);
    all.await;
    let order = order.lock().unwrap();
    assert_eq!(
        *order,
        ["many", "one", "two", "many", "many", "many", "many"]
    );
    assert_eq!((queue.waiting(), queue.under_way()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn demand_goes_before_prefetch() {
    let queue = queue(1);
    let held = queue.turn(&client("x"), DEMAND, MAY_SHED).await.unwrap();
    let order = Mutex::new(Vec::new());
    let all = futures::future::join3(
        served(Arc::clone(&queue), "ahead", Priority::Prefetch, &order),
        served(Arc::clone(&queue), "ahead", Priority::Prefetch, &order),
        served(Arc::clone(&queue), "reader", DEMAND, &order),
    );
    let mut all = std::pin::pin!(all);
    assert!(futures::poll!(&mut all).is_pending());
    drop(held);
    let _done = all.await;
    assert_eq!(*order.lock().unwrap(), ["reader", "ahead", "ahead"]);
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_too_long_is_turned_away() {
    let queue = queue(1);
    let held = queue.turn(&client("x"), DEMAND, MAY_SHED).await.unwrap();
    // Requests take 50 ms as long as nothing else is known, so 40 of them take 2 s.
    let mut waiting = Vec::new();
    let shed = loop {
        let queue = Arc::clone(&queue);
        let mut turn = async move { queue.turn(&client("many"), DEMAND, MAY_SHED).await }.boxed();
        match futures::poll!(&mut turn) {
            std::task::Poll::Pending => waiting.push(turn),
            std::task::Poll::Ready(outcome) => break outcome.map(drop),
        }
    };
    assert_eq!(waiting.len(), 40);
    assert_eq!(shed, Err(Shed { retry_after_s: 3 }));
    // Another client has no part in that: it waits for one turn of the first.
    let other = client("other");
    let mut other = Box::pin(queue.turn(&other, DEMAND, MAY_SHED));
    assert!(futures::poll!(&mut other).is_pending());
    // An answer that has begun goes on.
    let client = client("many");
    let mut begun = Box::pin(queue.turn(&client, DEMAND, Admission::Begun));
    assert!(futures::poll!(&mut begun).is_pending());
    // Prefetch waits for all demand.
    let ahead = queue.turn(&client, Priority::Prefetch, MAY_SHED);
    assert!(matches!(ahead.now_or_never(), Some(Err(Shed { .. }))));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn turns_of_those_who_are_gone_are_passed_on() {
    let queue = queue(1);
    let held = queue.turn(&client("x"), DEMAND, MAY_SHED).await.unwrap();
    let mut gone: Vec<_> = (0..3000)
        .map(|number| {
            let queue = Arc::clone(&queue);
            async move {
                let client = client(&number.to_string());
                queue.turn(&client, DEMAND, Admission::Begun).await
            }
            .boxed()
        })
        .collect();
    for turn in &mut gone {
        assert!(futures::poll!(turn).is_pending());
    }
    let stays = client("stays");
    let mut stays = Box::pin(queue.turn(&stays, DEMAND, Admission::Begun));
    assert!(futures::poll!(&mut stays).is_pending());
    drop(gone);
    drop(held);
    let turn = stays.await.unwrap();
    assert_eq!(queue.waiting(), 0);
    drop(turn);
    assert_eq!(queue.under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_was_given_and_not_taken_is_passed_on() {
    let queue = queue(1);
    let held = queue.turn(&client("x"), DEMAND, MAY_SHED).await.unwrap();
    let leaves = client("leaves");
    let mut waiting = Box::pin(queue.turn(&leaves, DEMAND, MAY_SHED));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(held);
    // The turn is its own now, but it never looks.
    drop(waiting);
    assert_eq!(queue.under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn those_who_are_turned_away_come_back_one_after_the_other() {
    let queue = queue(1);
    let _held = queue.turn(&client("x"), DEMAND, MAY_SHED).await.unwrap();
    let mut waiting = Vec::new();
    let mut told = Vec::new();
    while told.len() < 1000 {
        let queue = Arc::clone(&queue);
        let mut turn = async move { queue.turn(&client("many"), DEMAND, MAY_SHED).await }.boxed();
        match futures::poll!(&mut turn) {
            std::task::Poll::Pending => waiting.push(turn),
            std::task::Poll::Ready(outcome) => told.push(outcome.unwrap_err().retry_after_s),
        }
    }
    // The origin serves 20 a second, and nobody waits for longer than 30 s.
    for seconds in 3..30 {
        let count = told.iter().filter(|told| **told == seconds).count();
        assert_eq!(count, 20, "after {seconds} s");
    }
    assert_eq!(told.iter().max(), Some(&30));
}
