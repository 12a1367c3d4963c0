DROP TABLE redeemed_block;
