"""PyPI's flaude against a host; run by clients.rs."""

import asyncio
import os

from flaude import app, fly_client, machine, volume

fly_client.FLY_API_BASE = os.environ["URL"] + "/v1"


async def main():
    made = await app.ensure_app("shop", org="personal")
    assert made.name == "shop", made
    assert (await app.get_app("shop")).name == "shop"
    assert await app.get_app("none") is None
    kept = await volume.create_volume("shop", name="data", region="fra", size_gb=1)
    assert [found.id for found in await volume.list_volumes("shop")] == [kept.id]
    # Its own configs are made for its image; the calls are the same.
    body = {"config": {"image": "host:sh", "init": {"exec": ["/bin/sh", "-c", "while :; do sleep 0.05; done"]}}}
    data = await fly_client.fly_post("/apps/shop/machines", json=body)
    await fly_client.fly_get(f"/apps/shop/machines/{data['id']}/wait?state=started&timeout=60")
    seen = await machine.get_machine("shop", data["id"])
    assert seen.state == "started" and seen.region == "fra", seen
    await machine.stop_machine("shop", data["id"])
    await fly_client.fly_get(f"/apps/shop/machines/{data['id']}/wait?state=stopped&timeout=60")
    await machine.destroy_machine("shop", data["id"])
    await machine.stop_machine("shop", data["id"])
    await volume.destroy_volume("shop", kept.id)


asyncio.run(main())
