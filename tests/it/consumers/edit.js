// Changes an ssh configuration like an editor: node edit.js PACKAGE FILE METHOD ARGUMENTS…
const fs = require('fs');
const [, , name, file, method, ...values] = process.argv;
const module_ = require(name);
const SSHConfig = module_.default ?? module_;
const config = SSHConfig.parse(fs.readFileSync(file, 'utf8'));
config[method](...values.map((value) => JSON.parse(value)));
fs.writeFileSync(file, SSHConfig.stringify(config));
