"""A relationship or a column that is called `events`, as a calendar has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, String, Table, create_engine, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    registry,
    relationship,
)

from events.domain import AggregateRoot, DomainEvent


@dataclass(frozen=True)
class Moved(DomainEvent):
    type = "moved"


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    calendar_id: Mapped[int] = mapped_column(ForeignKey("calendars.id"))


class Calendar(AggregateRoot, Base):
    __tablename__ = "calendars"
    id: Mapped[int] = mapped_column(primary_key=True)
    events: Mapped[list[Entry]] = relationship()


class Diary(Base, AggregateRoot):
    __tablename__ = "diaries"
    id: Mapped[int] = mapped_column(primary_key=True)
    events: Mapped[str]


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class DataDiary(AggregateRoot, DataBase):
    __tablename__ = "diaries"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    events: Mapped[str]


class Imperative(AggregateRoot):
    def __init__(self, events: str) -> None:
        self.events = events


mapper = registry()
mapper.map_imperatively(
    Imperative,
    Table(
        "diaries",
        mapper.metadata,
        Column("id", Integer, primary_key=True),
        Column("events", String),
    ),
)


def test_a_relationship() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Calendar(events=[Entry(), Entry()]))
        session.commit()
    with Session(engine) as session:
        calendar = session.scalars(select(Calendar)).one()
        calendar.publish_event(Moved())
        assert [type(each) for each in calendar.events] == [Entry, Entry]
        assert calendar.pop_events() == [Moved()]
    engine.dispose()


DIARIES: list[Any] = [Diary, DataDiary, Imperative]


@pytest.mark.parametrize("cls", DIARIES)
def test_a_column(cls: Any) -> None:
    metadata = mapper.metadata if issubclass(cls, Imperative) else cls.registry.metadata
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
    with Session(engine) as session:
        diary = cls(events="all of them")
        diary.events = "all of them"
        diary.publish_event(Moved())
        session.add(diary)
        session.commit()
        assert diary.pop_events() == [Moved()]
    with Session(engine) as session:
        assert session.scalars(select(cls.events)).all() == ["all of them"]
        assert session.scalars(select(cls)).one().events == "all of them"
    engine.dispose()
