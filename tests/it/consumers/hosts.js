// Lists the hosts of an ssh configuration like an editor: node hosts.js PACKAGE FILE
const [, , name, file] = process.argv;
const module_ = require(name);
const SSHConfig = module_.default ?? module_;
const config = SSHConfig.parse(require('fs').readFileSync(file, 'utf8'));
const patterns = (value) => (Array.isArray(value) ? value.map((word) => word.val ?? word) : value.split(/\s+/));
const aliases = config.filter((line) => line.param === 'Host').flatMap((line) => patterns(line.value));
const read = (alias) => {
  const values = config.compute(alias);
  // Versions before 5.0 split a ProxyCommand into words.
  return { ...values, ProxyCommand: [values.ProxyCommand].flat().join(' ') };
};
console.log(JSON.stringify(Object.fromEntries(aliases.map((alias) => [alias, read(alias)]))));
