//! What the shop does: plain functions, each one step of the definition.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use stagepost::{ActivityError, Context, Failure, State, activity};

/// An order, as the web shop sends it. Fields that earlier steps added are read where they are needed.
#[derive(Debug, Deserialize)]
pub(crate) struct Order {
    /// Given by the web shop.
    pub(crate) order_id: String,
    /// Who pays.
    pub(crate) card: String,
    /// Where it goes.
    pub(crate) address: String,
    /// What was ordered.
    pub(crate) items: Vec<Item>,
}

/// One line of an order.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Item {
    /// The article.
    pub(crate) sku: String,
    /// How many.
    pub(crate) quantity: u32,
    /// For one.
    pub(crate) price_cents: u64,
}

impl Order {
    fn total_cents(&self) -> u64 {
        self.items.iter().map(|item| u64::from(item.quantity) * item.price_cents).sum()
    }
}

/// The warehouse's books: which order has reserved what. A real shop would keep them in its database.
#[derive(Debug, Default)]
pub(crate) struct Warehouse {
    reserved: Mutex<HashMap<String, Vec<Item>>>,
}

impl Warehouse {
    fn books(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Item>>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can go wrong in the warehouse.
#[derive(Debug, thiserror::Error, ActivityError)]
pub(crate) enum WarehouseError {
    /// An article is not there.
    #[error("{sku} is out of stock")]
    #[activity_error("Warehouse.OutOfStock")]
    OutOfStock {
        /// Which.
        sku: String,
    },
}

/// What was reserved.
#[derive(Debug, Serialize)]
pub(crate) struct Reservation {
    /// How many lines.
    pub(crate) lines: usize,
}

/// Reserves every item of the order. Reserving again for the same order changes nothing.
#[activity(idempotent)]
pub(crate) async fn check_stock(
    warehouse: State<Warehouse>,
    order: Order,
) -> Result<Reservation, WarehouseError> {
    if let Some(item) = order.items.iter().find(|item| item.sku == "phoenix-feather") {
        return Err(WarehouseError::OutOfStock { sku: item.sku.clone() });
    }
    let lines = order.items.len();
    warehouse.books().insert(order.order_id, order.items);
    Ok(Reservation { lines })
}

/// Gives back what an order has reserved.
#[activity(idempotent)]
pub(crate) async fn release_stock(
    warehouse: State<Warehouse>,
    order: Order,
) -> Result<Reservation, WarehouseError> {
    let released = warehouse.books().remove(&order.order_id);
    Ok(Reservation { lines: released.map_or(0, |items| items.len()) })
}

/// What can go wrong with a payment.
#[derive(Debug, thiserror::Error, ActivityError)]
pub(crate) enum PaymentError {
    /// Try again later.
    #[error("the payment gateway does not answer")]
    #[activity_error("Payments.GatewayUnavailable")]
    GatewayUnavailable,
    /// The bank says no.
    #[error("card {card} was declined")]
    #[activity_error("Payments.CardDeclined")]
    CardDeclined {
        /// Its last digits.
        card: String,
    },
}

/// A payment.
#[derive(Debug, Serialize)]
pub(crate) struct Payment {
    /// The gateway's id of it.
    pub(crate) charge_id: String,
    /// How much.
    pub(crate) amount_cents: u64,
}

/// Charges the card. The idempotency key is the same for all attempts of this step, so a gateway that knows it
/// already charges nothing twice.
#[activity]
pub(crate) async fn charge_payment(cx: Context, order: Order) -> Result<Payment, PaymentError> {
    if order.card.starts_with("flaky") && cx.attempt() == 1 {
        return Err(PaymentError::GatewayUnavailable);
    }
    if order.card.starts_with("declined") {
        return Err(PaymentError::CardDeclined { card: order.card });
    }
    let charge_id = format!("charge-{}", order.order_id);
    Ok(Payment { charge_id, amount_cents: order.total_cents() })
}

/// An order that was paid.
#[derive(Debug, Deserialize)]
pub(crate) struct PaidOrder {
    order_id: String,
    payment: Paid,
}

#[derive(Debug, Deserialize)]
struct Paid {
    charge_id: String,
    amount_cents: u64,
}

/// Money that went back.
#[derive(Debug, Serialize)]
pub(crate) struct Refund {
    /// The gateway's id of it.
    pub(crate) refund_id: String,
    /// Of which payment.
    pub(crate) charge_id: String,
    /// How much.
    pub(crate) amount_cents: u64,
}

/// Gives the money back.
#[activity(idempotent)]
pub(crate) async fn refund_payment(order: PaidOrder) -> Result<Refund, Failure> {
    let PaidOrder { order_id, payment } = order;
    let refund_id = format!("refund-{order_id}");
    Ok(Refund { refund_id, charge_id: payment.charge_id, amount_cents: payment.amount_cents })
}

/// What was taken from the shelves.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Picked {
    /// How many pieces.
    pub(crate) pieces: u32,
}

/// Takes the items from the shelves, and tells after each that it is alive.
#[activity(idempotent)]
pub(crate) async fn pick(cx: Context, order: Order) -> Result<Picked, Failure> {
    let mut pieces = 0;
    for item in &order.items {
        cx.check_cancelled()?;
        pieces += item.quantity;
        cx.heartbeat(&item.sku);
    }
    Ok(Picked { pieces })
}

/// An order whose items are on the packing table.
#[derive(Debug, Deserialize)]
pub(crate) struct PickedOrder {
    order_id: String,
    picked: Picked,
}

/// A parcel.
#[derive(Debug, Serialize)]
pub(crate) struct Parcel {
    /// Its label.
    pub(crate) label: String,
    /// How many pieces are in it.
    pub(crate) pieces: u32,
}

/// Packs what was picked.
#[activity(idempotent)]
pub(crate) async fn pack(order: PickedOrder) -> Result<Parcel, Failure> {
    Ok(Parcel { label: format!("parcel-{}", order.order_id), pieces: order.picked.pieces })
}

/// An invoice.
#[derive(Debug, Serialize)]
pub(crate) struct Invoice {
    /// Its number.
    pub(crate) number: String,
    /// How much.
    pub(crate) amount_cents: u64,
}

/// Writes the invoice.
#[activity(idempotent)]
pub(crate) async fn write_invoice(order: PaidOrder) -> Result<Invoice, Failure> {
    Ok(Invoice { number: format!("invoice-{}", order.order_id), amount_cents: order.payment.amount_cents })
}

/// What can go wrong at the carrier.
#[derive(Debug, thiserror::Error, ActivityError)]
pub(crate) enum CarrierError {
    /// Nobody knows that address.
    #[error("the carrier does not know the address '{address}'")]
    #[activity_error("Carrier.AddressUnknown")]
    AddressUnknown {
        /// Which.
        address: String,
    },
}

/// A shipment.
#[derive(Debug, Serialize)]
pub(crate) struct Shipment {
    /// Where to follow it.
    pub(crate) tracking: String,
}

/// Hands the parcel to the carrier, who knows the order by its id: handed over twice, it is sent once.
#[activity(idempotent)]
pub(crate) async fn dispatch(order: Order) -> Result<Shipment, CarrierError> {
    if order.address.starts_with("unknown") {
        return Err(CarrierError::AddressUnknown { address: order.address });
    }
    Ok(Shipment { tracking: format!("track-{}", order.order_id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(address: &str, card: &str) -> Order {
        let items = vec![Item { sku: "tea".into(), quantity: 3, price_cents: 790 }];
        Order { order_id: "o".into(), card: card.into(), address: address.into(), items }
    }

    #[tokio::test]
    async fn a_flaky_gateway_is_worth_a_second_attempt() {
        let cx = |attempt| Context::for_test().attempt(attempt).build();
        let first = charge_payment(cx(1), order("x", "flaky")).await;
        assert!(matches!(first, Err(PaymentError::GatewayUnavailable)));
        assert_eq!(charge_payment(cx(2), order("x", "flaky")).await.unwrap().amount_cents, 2370);
    }

    #[tokio::test]
    async fn what_was_reserved_can_be_released_once() {
        let warehouse = State::new(Warehouse::default());
        assert_eq!(check_stock(warehouse.clone(), order("x", "c")).await.unwrap().lines, 1);
        assert_eq!(release_stock(warehouse.clone(), order("x", "c")).await.unwrap().lines, 1);
        assert_eq!(release_stock(warehouse, order("x", "c")).await.unwrap().lines, 0);
    }

    #[tokio::test]
    async fn an_unknown_address_is_refused() {
        let error = dispatch(order("unknown, at sea", "c")).await.unwrap_err();
        assert!(matches!(error, CarrierError::AddressUnknown { .. }));
    }
}
