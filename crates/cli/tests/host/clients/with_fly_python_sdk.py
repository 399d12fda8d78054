"""PyPI's fly-python-sdk against a host; run by clients.rs."""

import asyncio
import os

from fly_python_sdk.fly.api import FlyApi
from fly_python_sdk.fly.app import App
from fly_python_sdk.fly.org import Org
from fly_python_sdk.models.machine import FlyMachine, FlyMachineConfig

token = os.environ["FLY_API_TOKEN"]
plain = FlyApi.__init__


def here(self, *args, **kwargs):
    plain(self, *args, **kwargs)
    self.base_url = os.environ["URL"]


FlyApi.__init__ = here


async def main():
    org = Org(token, "personal")
    await org.create_app("shop")
    app = App(token, "personal", "shop")
    assert (await app.inspect()).name == "shop"
    config = FlyMachineConfig(image="host:sh", env={"A": "b"}, metadata={"k": "v"}, restart={"policy": "no"})
    made = await app.create_machine(FlyMachine(name="one", region="fra", config=config))
    assert made.state == "created" and made.config.env == {"A": "b"}, made
    machines = await app.list_machines()
    assert [machine.id for machine in machines] == [made.id], machines
    machine = app.Machine(made.id)
    assert (await machine.inspect()).id == made.id
    await machine.get_events()
    await machine.destroy()
    await app.delete()


asyncio.run(main())
