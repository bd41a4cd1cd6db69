#!/bin/sh
# As on a cloud provider's server, the operator's login is no superuser: it creates roles, and owns the database.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set operator_password="$(cat /etc/gridnode/database/operator-password)" \
  --set master_password="$(cat /etc/gridnode/database/master-password)" \
  --set master_schema="$MASTER_SCHEMA" <<'SQL'
CREATE ROLE gridnode LOGIN CREATEROLE PASSWORD :'operator_password';
CREATE ROLE gridnode_master LOGIN PASSWORD :'master_password';
CREATE DATABASE gridnode OWNER gridnode TEMPLATE template0;
\connect gridnode
CREATE SCHEMA :"master_schema" AUTHORIZATION gridnode_master;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
SQL
