// npm's fly-admin against a host; run by clients.rs.

const assert = require('assert')
const Client = require('fly-admin/dist/client').default

async function main() {
  const fly = new Client(process.env.FLY_API_TOKEN, { apiUrl: process.env.URL })
  await fly.App.createApp({ app_name: 'shop', org_slug: 'personal' })
  assert.equal((await fly.App.listApps('personal')).total_apps, 1)
  const exec = ['/bin/sh', '-c', "trap 'exit 0' TERM; while :; do sleep 0.05; done"]
  const made = await fly.Machine.createMachine({ app_name: 'shop', config: { image: 'host:sh', init: { exec } } })
  const one = { app_name: 'shop', machine_id: made.id }
  await fly.Machine.waitMachine({ ...one, instance_id: made.instance_id, state: 'started' })
  assert.equal((await fly.Machine.getMachine(one)).state, 'started')
  assert.ok((await fly.Machine.listProcesses({ ...one, sort_by: 'pid' })).length > 0)
  await fly.Machine.signalMachine({ ...one, signal: 'SIGCONT' })
  await fly.Machine.cordonMachine(one)
  await fly.Machine.uncordonMachine(one)
  await fly.Machine.restartMachine({ ...one, timeout: '30s' })
  await fly.Machine.waitMachine({ ...one, state: 'started' })
  await fly.Machine.stopMachine({ ...one, timeout: '30s' })
  await fly.Machine.waitMachine({ ...one, instance_id: made.instance_id, state: 'stopped' })
  assert.ok((await fly.Machine.listEvents(one)).length > 3)
  assert.equal((await fly.Machine.listVersions(one)).length, 1)
  const volume = await fly.Volume.createVolume({ app_name: 'shop', name: 'data', region: 'fra', size_gb: 1 })
  assert.equal((await fly.Volume.listVolumes('shop'))[0].id, volume.id)
  await fly.Machine.deleteMachine({ ...one, force: true })
  await fly.App.deleteApp('shop')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
