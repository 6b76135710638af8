-- Which orders made an asset what it is: its items are found from the asset.

create index order_item_target_asset on order_item (tenant_id, target_asset) where target_asset is not null;
create index order_item_asset on order_item (tenant_id, asset) where asset is not null;
