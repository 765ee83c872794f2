// Uses Node's ssh2 with web01: ssh2.js run|up|down. `run` exits with the status of the command.
const { execFileSync, spawn } = require('child_process');
const { Duplex } = require('stream');
const fs = require('fs');
const { Client } = require('ssh2');

const task = process.argv[2];
const effective = execFileSync('ssh', ['-G', 'web01'], { encoding: 'utf8' });
const value = (name) => effective.match(new RegExp(`^${name} (.*)$`, 'm'))[1];
const command = value('proxycommand').replaceAll('%p', value('port')).replaceAll('%%', '%');
const proxy = spawn('sh', ['-c', `exec ${command}`], { stdio: ['pipe', 'pipe', 'inherit'] });
const client = new Client();
const end = (error, status = 0) => {
  if (error) console.error(error);
  process.exitCode = error ? 1 : status;
  client.end();
  proxy.stdin.end();
};
client.on('error', end).on('ready', () => {
  if (task === 'run') {
    return client.exec('exit 7', (error, stream) => {
      if (error) return end(error);
      stream.on('exit', (status) => end(null, status)).resume();
    });
  }
  client.sftp((error, sftp) => {
    if (error) return end(error);
    if (task === 'up') sftp.fastPut('data', 'up-ssh2', end);
    else sftp.fastGet('up-ssh2', 'down-ssh2', end);
  });
});
client.connect({
  sock: Duplex.from({ readable: proxy.stdout, writable: proxy.stdin }),
  username: value('user'),
  privateKey: fs.readFileSync(`${process.env.HOME}/.ssh/id_ed25519`),
});
