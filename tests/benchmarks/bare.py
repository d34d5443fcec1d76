"""The lower bound of the API's response times: a Flask view that commits one row, and one that reads one."""

import os
import uuid
from typing import Any

from flask import Flask, jsonify, request
from sqlalchemy import create_engine, text

from app.db.engine import POOL_SIZE

TABLE = "CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, phone_number text NOT NULL)"
"""What the view writes to; made before the servers start, since two workers would race for it."""

_INSERT = text("INSERT INTO bare (id, phone_number) VALUES (:id, :phone_number)")
_SELECT = text("SELECT id, phone_number FROM bare WHERE id = :id")


def create_app() -> Flask:
    """Build the application; its pool is as large as ours, and it checks nothing."""
    app = Flask(__name__)
    engine = create_engine(os.environ["DATABASE_URL"], pool_size=POOL_SIZE, max_overflow=0)

    @app.get("/healthz")
    def healthz() -> Any:
        return jsonify(status="ok")

    @app.post("/bare")
    def write() -> Any:
        row = {"id": uuid.uuid4(), "phone_number": request.get_json()["phoneNumber"]}
        with engine.begin() as connection:
            connection.execute(_INSERT, row)
        return jsonify(id=str(row["id"])), 202

    @app.get("/bare/<uuid:row_id>")
    def read(row_id: uuid.UUID) -> Any:
        with engine.connect() as connection:
            found = connection.execute(_SELECT, {"id": row_id}).one()
        return jsonify(id=str(found.id), phoneNumber=found.phone_number)

    return app
