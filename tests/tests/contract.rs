//! The contract of `arbiterq_tests::contract`, on every transport there is.

use arbiterq_tests::contract_suite;

contract_suite!(in_process, InProcess);
contract_suite!(tcp, Tcp);
contract_suite!(unix, Unix);
contract_suite!(rabbitmq, RabbitMq);
